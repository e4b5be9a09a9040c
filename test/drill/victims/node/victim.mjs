// A verifier on trial in the drill (test/drill): jose with its README's
// settings. The protocol is that of ../golang/main.go.
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { createRemoteJWKSet, jwtVerify } from 'jose'

const { values } = parseArgs({
  options: { issuer: { type: 'string' }, jwks: { type: 'string' }, scale: { type: 'string', default: '1' } },
})
const scale = Number(values.scale)
const keys = createRemoteJWKSet(new URL(values.jwks), scale === 1 ? {} : {
  cacheMaxAge: 600_000 / scale,
  cooldownDuration: 30_000 / scale,
})
await keys.reload()
console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  const [id, audience, token] = line.split(' ')
  jwtVerify(token ?? '', keys, {
    issuer: values.issuer, audience, typ: 'at+jwt', algorithms: ['RS256', 'EdDSA'], requiredClaims: ['exp', 'sub'],
  }).then(() => console.log(`${id} ok`), (e) => console.log(`${id} no ${String(e.message).replaceAll('\n', ' ')}`))
}
