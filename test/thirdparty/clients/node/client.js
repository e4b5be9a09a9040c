// Reads requests from standard input, one JSON object a line, and carries each
// out with openid-client against ISSUER: test/thirdparty/clients_test.go.
import { createInterface } from 'node:readline'

import * as oauth from 'openid-client'

const issuer = new URL(process.env.ISSUER)

async function authentication({ auth, client_secret: secret, key, alg }) {
  switch (auth) {
    case 'client_secret_basic': return oauth.ClientSecretBasic(secret)
    case 'client_secret_post': return oauth.ClientSecretPost(secret)
    case 'private_key_jwt': return oauth.PrivateKeyJwt(await crypto.subtle.importKey('jwk', key, {
      ES256: { name: 'ECDSA', namedCurve: 'P-256' },
      RS256: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
      PS256: { name: 'RSA-PSS', hash: 'SHA-256' },
      EdDSA: { name: 'Ed25519' },
    }[alg], false, ['sign']))
    default: return oauth.None()
  }
}

async function carryOut(request) {
  // From RFC 8414's metadata, each time anew: each request is another client.
  const config = await oauth.discovery(issuer, request.client_id, undefined, await authentication(request), {
    algorithm: 'oauth2',
    execute: [oauth.allowInsecureRequests], // the issuer is on this machine
  })
  switch (request.do) {
    case 'discover': return config.serverMetadata()
    case 'client_credentials': return oauth.clientCredentialsGrant(config, request.scope ? { scope: request.scope } : {})
    case 'refresh': return oauth.refreshTokenGrant(config, request.token)
    case 'introspect': return oauth.tokenIntrospection(config, request.token)
    case 'revoke': return (await oauth.tokenRevocation(config, request.token)) ?? {}
  }
  throw new Error(`unknown: ${request.do}`)
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    answer = await carryOut(JSON.parse(line))
  } catch (error) {
    if (error instanceof oauth.ResponseBodyError) {
      answer = { error: error.error, error_description: error.error_description, status: error.status }
    } else if (error instanceof oauth.WWWAuthenticateChallengeError) {
      // 401 with a challenge, which the library reads before the body.
      const body = await error.response.json()
      answer = { error: body.error, error_description: body.error_description, status: error.status }
    } else {
      answer = { error: '', error_description: String(error.cause ?? error) }
    }
  }
  console.log(JSON.stringify(answer))
}
