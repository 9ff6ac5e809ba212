// npm's oidc-provider: an issuer of JWT access tokens, and one that people log in at for the page of the mesh, whose
// address is the second argument. Its private keys are in the file that is the first one, which is read again on SIGHUP:
// of several keys for one algorithm, the first signs. Its own forms take any name and password.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const [, , keys, page] = process.argv;
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;
const scope = 'models:predict models:status';
const algorithms = { 'urn:rs256': 'RS256', 'urn:es256': 'ES256', 'urn:ed25519': 'Ed25519', 'urn:eddsa': 'EdDSA' };
const groups = { vera: ['ml'], saul: ['security'] };
const login = {
  grant_types: ['authorization_code'], response_types: ['code'], redirect_uris: [`${page}/login/callback`],
  scope: 'openid groups',
};

function provide() {
  return new Provider(issuer, {
    jwks: JSON.parse(readFileSync(keys, 'utf8')),
    clients: [{
      client_id: 'batch-scorer', client_secret: 'secret', grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [], scope,
    },
    { client_id: 'page', client_secret: 's3cret:% +/&', ...login },
    { client_id: 'public page', token_endpoint_auth_method: 'none', id_token_signed_response_alg: 'ES256', ...login }],
    scopes: ['openid', 'groups', ...scope.split(' ')],
    claims: { openid: ['sub'], groups: ['groups'] },
    cookies: { keys: ['of the tests'] },
    findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id, groups: groups[id] ?? [] }) }),
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope, audience: 'models', accessTokenFormat: 'jwt', accessTokenTTL: 300,
          jwt: { sign: { alg: algorithms[resource] } },
        }),
      },
    },
  }).callback();
}

let answer = provide();
server.on('request', (request, response) => answer(request, response));
process.on('SIGHUP', () => { answer = provide(); console.log('rotated'); });
process.on('SIGTERM', () => process.exit(0));
console.log(JSON.stringify({ event: 'listening', issuer }));
