// A real OpenID provider for tests. It listens on loopback, says where in one line of
// JSON on standard output, and ends when its standard input does.
//
// Whoever tests it tells it by POST /control what there is: {"clients": […],
// "accounts": {login: {"password": …, "claims": {"sub": …, …}}}, "rotate": true}.
// Clients and keys begin anew with each of these that has them: so do sessions then.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const state = { clients: [], accounts: {}, jwks: newKeys() };
let issuer;
let handle; // of requests, by the provider as it is now

function newKeys() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg: 'ES256', use: 'sig' }] };
}

function accountBySub(sub) {
  return Object.values(state.accounts).find((account) => account.claims.sub === sub);
}

function makeProvider() {
  return new Provider(issuer, {
    clients: state.clients.map((client) => ({ id_token_signed_response_alg: 'ES256', ...client })),
    jwks: state.jwks,
    cookies: { keys: [randomUUID()] },
    claims: {
      openid: ['sub'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
      groups: ['groups'],
    },
    conformIdTokenClaims: false, // claims are in ID tokens, and not at userinfo only
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    pkce: { required: () => true },
    ttl: { Session: 3600, Grant: 3600, Interaction: 3600, AuthorizationCode: 60, AccessToken: 300, IdToken: 300 },
    findAccount: (ctx, sub) => {
      const account = accountBySub(sub);
      return account && { accountId: sub, claims: async () => account.claims };
    },
    features: {
      devInteractions: { enabled: false },
      rpInitiatedLogout: {
        logoutSource: (ctx, form) => {
          ctx.body = page('Sign out of the provider?', `${form}<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out there</button>`);
        },
        postLogoutSuccessSource: (ctx) => { ctx.body = page('Signed out', ''); },
      },
    },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    loadExistingGrant: async (ctx) => {
      // Nobody is asked for consent.
      const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
      grant.addOIDCScope([...ctx.oidc.requestParamScopes].join(' '));
      await grant.save();
      return grant;
    },
    renderError: (ctx, out) => {
      ctx.type = 'html';
      ctx.body = page('Error', `<pre>${escape(JSON.stringify(out))}</pre>`);
    },
  });
}

function escape(text) {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

function page(title, body) {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title><main><h1>${title}</h1>${body}</main></html>`;
}

function loginForm(uid, hint, error) {
  return page('Provider', `${error ? `<p role="alert">${error}</p>` : ''}
<form method="post" action="/interaction/${uid}">
<label>Login <input name="login" value="${escape(hint)}"></label>
<label>Password <input name="password" type="password"></label>
<button type="submit" name="do" value="sign-in">Sign in</button>
<button type="submit" name="do" value="deny">No</button>
</form>`);
}

async function interaction(provider, req, res) {
  const details = await provider.interactionDetails(req, res);
  if (req.method === 'GET') {
    send(res, 200, loginForm(details.uid, details.params.login_hint ?? '', ''));
    return;
  }
  const form = new URLSearchParams(await body(req));
  if (form.get('do') === 'deny') {
    await provider.interactionFinished(req, res, { error: 'access_denied', error_description: 'The person said no' });
    return;
  }
  const account = state.accounts[form.get('login')];
  if (!account || account.password !== form.get('password')) {
    send(res, 401, loginForm(details.uid, form.get('login'), 'Wrong'));
    return;
  }
  await provider.interactionFinished(req, res, { login: { accountId: account.claims.sub, amr: ['pwd'], acr: account.claims.acr } });
}

async function control(req, res) {
  const change = JSON.parse(await body(req));
  Object.assign(state.accounts, change.accounts);
  if (change.clients) state.clients = change.clients;
  if (change.rotate) state.jwks = newKeys();
  if (change.clients || change.rotate) serve();
  send(res, 204, '');
}

async function body(req) {
  const parts = [];
  for await (const part of req) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
}

function send(res, status, text) {
  res.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  res.end(text);
}

function serve() {
  const provider = makeProvider();
  const callback = provider.callback();
  for (const event of ['authorization.error', 'grant.error', 'userinfo.error', 'server_error']) {
    provider.on(event, (ctx, err) => process.stderr.write(`${event}: ${err.message} ${err.error_detail ?? err.stack}\n`));
  }
  handle = (req, res) => {
    if (req.url.startsWith('/interaction/') && ['GET', 'POST'].includes(req.method) && req.url.split('/').length === 3) {
      return interaction(provider, req, res);
    }
    return callback(req, res);
  };
}

const server = createServer(async (req, res) => {
  try {
    await (req.url === '/control' && req.method === 'POST' ? control(req, res) : handle(req, res));
  } catch (err) {
    process.stderr.write(`${err.stack}\n`);
    if (!res.headersSent) send(res, 500, page('Error', escape(String(err))));
  }
});

server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  serve();
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
});
process.stdin.on('close', () => process.exit(0)).resume();
