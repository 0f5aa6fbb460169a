// Decides for each request, before the cache, which view it may see, and rewrites it to the key in the bucket.
// CloudFront Functions, runtime 2.0, at most 10 KB: no await within an expression, no closure that awaits, no spread,
// class, destructuring, optional chaining or for-of.
import cf from 'cloudfront';
const crypto = require('crypto');
const kvs = cf.kvs();

const LONGEST_PATH = 1200;
const LONGEST_AUTHORIZATION = 512;
const PLAIN = /^\/[A-Za-z0-9._~:\/-]*$/;
const TOKEN = /^sst_[A-Za-z0-9_-]{32}$/;
const VIEW = /^[a-z0-9][a-z0-9-]{0,62}$/;
const LABEL = VIEW;
const STREAM = /^images(-[a-z0-9]+)*$/;
const SIGNED = /^signed\/([A-Za-z0-9_-]{22})\/(images(-[a-z0-9]+)*\/.+)$/;
const DOCUMENT = /^streams\/v1\/([A-Za-z0-9][A-Za-z0-9_-]*)[A-Za-z0-9._-]*$/;
const PAGE = /^(index\.html|api\.html|openapi\.json|streams\/mirrors\.json)?$/;
const NO_CHANNEL = /^(streams|images.*|signed|views|private|versions|leases|maintain|mirrors)$/;
// A wrong token is compared with this, so that it takes the same steps as a right one.
const NOBODY = { view: '', key: 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', public: false };

async function handler(event) {
    const request = event.request;
    try {
        const decided = await decide(request);
        return decided;
    } catch (error) {
        // Without the list of private streams, it is unknown what is public.
        console.log('views: ' + error);
        return answer(503, 'Service Unavailable');
    }
}

async function decide(request) {
    const path = canonical(request.uri);
    if (path === null) {
        return answer(404, 'Not Found');
    }
    const password = basicPassword(request.headers.authorization);
    if (password !== null) {
        const view = await viewOfToken(password);
        const key = keyIn(view, path.slice(1));
        logUse(view, key);
        return view === NOBODY ? challenge() : serve(request, key);
    }
    const slash = path.indexOf('/', 1);
    const first = slash < 0 ? path.slice(1) : path.slice(1, slash);
    const isToken = first.indexOf('sst_') === 0;
    if (isToken || (VIEW.test(first) && !NO_CHANNEL.test(first))) {
        const open = isToken ? viewOfToken : channel;
        const view = await open(first);
        // The page's links are relative: they need the slash.
        const key = slash < 0 ? '' : keyIn(view, path.slice(slash + 1));
        logUse(view, key);
        if (view === NOBODY) {
            return answer(404, 'Not Found');
        }
        return slash < 0 ? redirect(path + '/') : serve(request, key);
    }
    if (first === 'signed') {
        return challenge();
    }
    const isOpen = await isPublic(first, path);
    return isOpen ? serve(request, path) : answer(404, 'Not Found');
}

// Return the path with each escape decoded once, or null if it could be read in two ways.
function canonical(uri) {
    if (uri.length > LONGEST_PATH) {
        return null;
    }
    let path = '';
    try {
        path = decodeURIComponent(uri);
    } catch (error) {
        return null;
    }
    const isPlain = PLAIN.test(path) && path.indexOf('//') < 0 && !/\/\.{1,2}(\/|$)/.test(path);
    return isPlain ? path : null;
}

// Return the password of Basic auth, '' if its form is unknown, or null if the request carries none.
function basicPassword(header) {
    if (!header) {
        return null;
    }
    if (header.multiValue && header.multiValue.length > 1) {
        return '';
    }
    const value = header.value;
    if (!/^basic\b/i.test(value)) {
        return null;
    }
    const encoded = /^basic +([A-Za-z0-9+\/]+={0,2})$/i.exec(value);
    if (encoded === null || value.length > LONGEST_AUTHORIZATION) {
        return '';
    }
    const pair = Buffer.from(encoded[1], 'base64').toString();
    const colon = pair.indexOf(':');
    return colon < 0 ? '' : pair.slice(colon + 1);
}

// Return the view that a token opens now, or NOBODY if it opens none. Both ways make four look-ups in the store.
async function viewOfToken(token) {
    const hash = crypto.createHash('sha256').update(token).digest('hex');
    const found = await entry('token:' + hash);
    const isValid = TOKEN.test(token) && found !== null && VIEW.test(found.view) && isAhead(found.until);
    const view = await viewNamed(isValid ? found.view : 'nobody');
    if (!isValid || view === NOBODY) {
        return NOBODY;
    }
    view.label = found.label;
    return view;
}

// Log the label of a token once for each index request with it, for `admin view token list`. Nothing else records it:
// the access logs hold no login. A token and its hash are never logged.
function logUse(view, key) {
    const isLabel = typeof view.label === 'string' && LABEL.test(view.label);
    if (isLabel && key === '/views/' + view.view + '/streams/v1/index.json') {
        console.log(JSON.stringify({ view: view.view, label: view.label }));
    }
}

function isAhead(until) {
    return until === 0 || (typeof until === 'number' && until > Date.now() / 1000);
}

async function channel(name) {
    const view = await viewNamed(name);
    return view.public === true ? view : NOBODY;
}

async function viewNamed(name) {
    const found = await entry('view:' + name);
    if (found === null || !/^[A-Za-z0-9_-]{43}=?$/.test(found.key)) {
        return NOBODY;
    }
    return { view: name, key: found.key, public: found.public };
}

// Return an entry of the store, or null if there is none or it cannot be read: a view is then denied.
async function entry(key) {
    try {
        // get() of a missing key throws, which takes longer than everything else here.
        const isThere = await kvs.exists(key);
        if (!isThere) {
            // The same number of look-ups as for an existing key.
            await kvs.exists(key);
            return null;
        }
        const text = await kvs.get(key);
        const found = JSON.parse(text);
        return typeof found === 'object' ? found : null;
    } catch (error) {
        return null;
    }
}

// Return the key in the bucket for a path below a view's address, or '' if the view has none.
function keyIn(view, below) {
    if (PAGE.test(below)) {
        return '/' + (below || 'index.html');
    }
    if (DOCUMENT.test(below)) {
        return '/views/' + view.view + '/' + below;
    }
    const signed = SIGNED.exec(below);
    return signed !== null && isSigned(view, signed[1], signed[2]) ? '/' + signed[2] : '';
}

function isSigned(view, mac, key) {
    const hmac = crypto.createHmac('sha256', Buffer.from(view.key, 'base64url'));
    const expected = hmac.update(view.view + '\n' + key).digest('base64url');
    let difference = 0;
    for (let i = 0; i < 22; i++) {
        difference |= expected.charCodeAt(i) ^ mac.charCodeAt(i);
    }
    return difference === 0;
}

// Return whether a path without a view is public.
async function isPublic(first, path) {
    const document = DOCUMENT.exec(path.slice(1));
    const stream = document !== null ? document[1] : first;
    if (!STREAM.test(stream)) {
        return document !== null || PAGE.test(path.slice(1));
    }
    const hidden = await privateStreams();
    return hidden.indexOf(stream) < 0;
}

async function privateStreams() {
    const isThere = await kvs.exists('private');
    if (!isThere) {
        return [];
    }
    const text = await kvs.get('private');
    const streams = JSON.parse(text);
    if (!Array.isArray(streams)) {
        throw new Error('the entry "private" is no list');
    }
    return streams;
}

function serve(request, path) {
    if (path === '') {
        return answer(404, 'Not Found');
    }
    delete request.headers.authorization;
    request.uri = path;
    return request;
}

function challenge() {
    const denied = answer(401, 'Unauthorized');
    denied.headers['www-authenticate'] = { value: 'Basic realm="images", charset="UTF-8"' };
    return denied;
}

function redirect(path) {
    const moved = answer(302, 'Found');
    moved.headers.location = { value: path };
    return moved;
}

function answer(status, description) {
    return { statusCode: status, statusDescription: description, headers: { 'cache-control': { value: 'no-store' } } };
}
