"""Reads requests from standard input, one JSON object a line, and carries each
out with Authlib against ISSUER: test/thirdparty/clients_test.go."""
import json
import os
import sys

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url
from joserfc.jwk import import_key

ISSUER = os.environ["ISSUER"]


class Metadata(AuthorizationServerMetadata):
    """Takes an empty response_types_supported, which is the truth where there
    is no authorization endpoint, for what it is: Authlib takes it for none."""

    REGISTRY_KEYS = [key for key in AuthorizationServerMetadata.REGISTRY_KEYS if key != "response_types_supported"]


class Session(OAuth2Session):
    """Keeps the status of the last answer, which Authlib's errors don't have."""

    def request(self, *args, **kwargs):
        answer = super().request(*args, **kwargs)
        self.last = answer
        return answer


def discover() -> Metadata:
    metadata = Metadata(requests.get(get_well_known_url(ISSUER, external=True), timeout=5).json())
    metadata.validate()
    return metadata


def carry_out(request: dict) -> dict:
    metadata = discover()
    if request["do"] == "discover":
        return dict(metadata)
    auth, secret = request.get("auth", "none"), request.get("client_secret")
    if auth == "private_key_jwt":
        auth, secret = PrivateKeyJWT(metadata["token_endpoint"], alg=request["alg"]), import_key(request["key"])
    session = Session(
        request["client_id"], secret, token_endpoint_auth_method=auth, revocation_endpoint_auth_method=auth,
        scope=request.get("scope"), token_endpoint=metadata["token_endpoint"],
    )
    try:
        match request["do"]:
            case "client_credentials":
                return dict(session.fetch_token(grant_type="client_credentials"))
            case "refresh":
                return dict(session.refresh_token(metadata["token_endpoint"], refresh_token=request["token"]))
            case "introspect":
                answer = session.introspect_token(metadata["introspection_endpoint"], token=request["token"])
            case "revoke":
                answer = session.revoke_token(metadata["revocation_endpoint"], token=request["token"])
            case other:
                raise ValueError(f"unknown: {other}")
    except OAuthError as error:
        return {"error": error.error, "error_description": error.description, "status": session.last.status_code}
    body = answer.json()
    return {**body, "status": answer.status_code} if "error" in body else body


for line in sys.stdin:
    try:
        answer = carry_out(json.loads(line))
    except Exception as error:  # the test is to see it, whatever it is
        answer = {"error": "", "error_description": repr(error)}
    print(json.dumps(answer), flush=True)
