"""A verifier on trial in the drill (test/drill): PyJWT's PyJWKClient with its
documentation's settings. The protocol is that of ../golang/main.go."""

import argparse
import sys

import jwt

arguments = argparse.ArgumentParser()
arguments.add_argument("--issuer")
arguments.add_argument("--jwks")
arguments.add_argument("--scale", type=int, default=1)
args = arguments.parse_args()

if args.scale == 1:
    keys = jwt.PyJWKClient(args.jwks)
else:
    keys = jwt.PyJWKClient(args.jwks, lifespan=300 / args.scale, cooldown_duration=30 / args.scale)
keys.get_jwk_set()
print("ready", flush=True)
for line in sys.stdin:
    number, audience, token = line.split()
    try:
        if jwt.get_unverified_header(token).get("typ", "").lower() != "at+jwt":
            raise jwt.InvalidTokenError("not an access token")
        jwt.decode(token, keys.get_signing_key_from_jwt(token), algorithms=["RS256", "EdDSA"],
                   issuer=args.issuer, audience=audience, options={"require": ["exp", "sub"]})
        print(number, "ok", flush=True)
    except Exception as e:  # whatever it is, the token was refused
        print(number, "no", str(e).replace("\n", " "), flush=True)
