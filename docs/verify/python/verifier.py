"""Reads tokens from standard input, one a line, and says of each whether it is
good. ISSUER and AUDIENCE are environment variables."""
import sys

# shown in docs/verify.md from here
import os

import jwt

ISSUER = os.environ["ISSUER"]  # https://id.example
KEYS = jwt.PyJWKClient(f"{ISSUER}/.well-known/jwks.json", timeout=5)  # once for the process


def verify(token: str) -> dict:
    if str(jwt.get_unverified_header(token).get("typ")).lower() != "at+jwt":
        raise jwt.InvalidTokenError("not an access token")
    return jwt.decode(
        token,
        KEYS.get_signing_key_from_jwt(token),
        algorithms=["RS256", "EdDSA"],
        issuer=ISSUER,
        audience=os.environ["AUDIENCE"],  # your-name
        leeway=30,  # seconds
        options={"require": ["exp", "iss", "aud", "sub"]},
    )
# shown in docs/verify.md to here


for line in sys.stdin:
    try:
        print("ok", ascii(verify(line.strip())["sub"]), flush=True)
    except jwt.PyJWTError as error:
        print("refused", repr(error), flush=True)
