//! Reads tokens from standard input, one a line, and says of each whether it
//! is good. ISSUER and AUDIENCE are environment variables.
use std::env;
use std::io::{self, BufRead};

// shown in docs/verify.md from here
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{decode, decode_header, Algorithm, DecodingKey, Validation};

type Error = Box<dyn std::error::Error>;

#[derive(serde::Deserialize)]
struct Claims {
    sub: String,
    scope: String,
}

struct Keys {
    url: String,
    http: ureq::Agent,
    set: JwkSet,
    fetched: Instant,
}

impl Keys {
    fn new(issuer: &str) -> Result<Keys, Error> {
        let url = format!("{issuer}/.well-known/jwks.json");
        let timeout = Some(Duration::from_secs(5));
        let http = ureq::Agent::new_with_config(ureq::config::Config::builder().timeout_global(timeout).build());
        let set = http.get(&url).call()?.body_mut().read_json()?;
        Ok(Keys { url, http, set, fetched: Instant::now() })
    }

    /// Fetches every 5 minutes, and for an unknown kid, but then not within 10
    /// seconds of the last time: anybody can make kids up.
    fn find(&mut self, kid: &str) -> Option<Jwk> {
        let age = self.fetched.elapsed().as_secs();
        if age >= 300 || age >= 10 && self.set.find(kid).is_none() {
            self.fetched = Instant::now();
            if let Ok(mut answer) = self.http.get(&self.url).call() {
                self.set = answer.body_mut().read_json().unwrap_or(self.set.clone());
            } // when it fails, keep what there is
        }
        self.set.find(kid).cloned()
    }
}

fn verify(keys: &mut Keys, issuer: &str, audience: &str, token: &str) -> Result<Claims, Error> {
    let header = decode_header(token)?;
    if !header.typ.unwrap_or_default().eq_ignore_ascii_case("at+jwt") {
        return Err("not an access token".into());
    }
    let key = keys.find(&header.kid.ok_or("no kid")?).ok_or("unknown key")?;
    let algorithm = Algorithm::try_from(key.common.key_algorithm.ok_or("no alg")?)?;
    if ![Algorithm::RS256, Algorithm::EdDSA].contains(&algorithm) {
        return Err("wrong algorithm".into());
    }
    let mut validation = Validation::new(algorithm); // the key's: the header must agree
    validation.leeway = 30; // otherwise 60 s
    validation.validate_nbf = true; // otherwise not
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]); // otherwise only exp
    Ok(decode::<Claims>(token, &DecodingKey::from_jwk(&key)?, &validation)?.claims)
}
// shown in docs/verify.md to here

fn main() -> Result<(), Error> {
    let (issuer, audience) = (env::var("ISSUER")?, env::var("AUDIENCE")?);
    let mut keys = Keys::new(&issuer)?;
    for line in io::stdin().lock().lines() {
        match verify(&mut keys, &issuer, &audience, &line?) {
            Ok(claims) => println!("ok {} {}", claims.sub, claims.scope),
            Err(error) => println!("refused {error}"),
        }
    }
    Ok(())
}
