// Reads tokens from standard input, one a line, and says of each whether it is
// good. ISSUER and AUDIENCE are environment variables.
import { createInterface } from 'node:readline'

// shown in docs/verify.md from here
import { createRemoteJWKSet, jwtVerify } from 'jose'

const issuer = process.env.ISSUER // https://id.example
const keys = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`)) // once for the process

async function verify(token) {
  const { payload } = await jwtVerify(token, keys, {
    issuer,
    audience: process.env.AUDIENCE, // your-name
    typ: 'at+jwt',
    algorithms: ['RS256', 'EdDSA'],
    requiredClaims: ['exp', 'sub'],
    clockTolerance: 30, // seconds
  })
  return payload
}
// shown in docs/verify.md to here

for await (const token of createInterface({ input: process.stdin })) {
  try {
    const { sub } = await verify(token)
    console.log(`ok ${sub}`)
  } catch (error) {
    console.log(`refused ${JSON.stringify(error.message)}`)
  }
}
