// What CloudFront's runtime 2.0 gives a function, as far as views.js needs it. `host` is Python.
class Buffer {
    constructor(hex) {
        this.hex = hex;
    }
    static from(text, encoding) {
        return new Buffer(host_decode(text, encoding || 'utf8'));
    }
    toString() {
        return host_text(this.hex);
    }
}

class Digest {
    constructor(key) {
        this.key = key;
        this.text = '';
    }
    update(text) {
        this.text += text;
        return this;
    }
    digest(encoding) {
        return host_digest(this.key, this.text, encoding);
    }
}

function require(name) {
    if (name !== 'crypto') {
        throw new Error('no module ' + name);
    }
    const only = function (kind) {
        if (kind !== 'sha256') {
            throw new Error('no digest ' + kind);
        }
    };
    return {
        createHash: function (kind) {
            only(kind);
            return new Digest(null);
        },
        createHmac: function (kind, key) {
            only(kind);
            return new Digest(key.hex);
        },
    };
}

const console = { log: host_log };
const cf = {
    kvs: function () {
        return {
            get: async function (key) {
                const value = host_get(key);
                if (value === null) {
                    throw new Error('KeyNotFound');
                }
                return value;
            },
            exists: async function (key) {
                return host_get(key) !== null;
            },
        };
    },
};

function start(event) {
    globalThis.outcome = '';
    handler(JSON.parse(event)).then(
        function (result) {
            globalThis.outcome = JSON.stringify(result);
        },
        function (error) {
            globalThis.outcome = JSON.stringify({ error: String(error) });
        }
    );
}
