//! Every setting: its flag, its environment variable, its default, what it means. Operators grep this file.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// What stands where none is given; none where that depends on other settings.
    pub default: Option<&'static str>,
    /// The default in words, where `default` is none.
    pub default_words: &'static str,
    /// What kind of value it takes.
    pub value: &'static str,
    /// What it means, with its unit.
    pub help: &'static str,
    /// It is masked wherever settings are shown, and may come from the file that `<env>_FILE` names.
    pub secret: bool,
    /// Where `--help` lists it.
    pub heading: &'static str,
}

/// The setting with this flag. One that is not in the table is a bug that the first start shows.
pub fn setting(flag: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.flag == flag).unwrap_or(&SETTINGS[0])
}

const NODE: &str = "Node";
const ADDRESSES: &str = "Addresses";
const REDIS: &str = "Redis";
const ACCESS: &str = "Who may connect";
const SESSIONS: &str = "Sessions and events";
/// Not listed: for tests.
pub const HIDDEN: &str = "";

macro_rules! settings {
    ($($heading:ident $flag:literal $env:literal $value:literal $default:tt $help:literal $($secret:ident)?),+ $(,)?) => {
        /// The table.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            flag: $flag,
            env: $env,
            value: $value,
            default: settings!(@default $default),
            default_words: settings!(@words $default),
            help: $help,
            secret: settings!(@secret $($secret)?),
            heading: $heading,
        }),+];
    };
    (@default [$words:literal]) => { None };
    (@default $default:literal) => { Some($default) };
    (@words [$words:literal]) => { $words };
    (@words $default:literal) => { "" };
    (@secret) => { false };
    (@secret secret) => { true };
}

// A default in brackets is in words.
settings! {
    NODE "mode" "SWITCHBOARD_MODE" "MODE" "auto"
        "local (in memory, one node), redis, or auto: redis where REDIS_URL is set, else local",
    NODE "node-id" "NODE_ID" "ID" ["host name"]
        "This node's name in Redis, logs and metrics; each node needs its own",
    NODE "env" "NODE_ENV" "ENV" "development"
        "development, or production: refuses to start unless --auth, --worker-token and --client-origin are set",
    NODE "log-level" "LOG_LEVEL" "LEVEL" "info"
        "error, warn, info, debug, trace, or a filter like switchboard=debug,redis=warn",
    NODE "log-format" "LOG_FORMAT" "FORMAT" ["text; json in production"]
        "text or json",
    NODE "threads" "THREADS" "COUNT" ["half of the cores, at least 1"]
        "Threads that serve, 1 to 1024: one does some 40,000 events a second, and each more costs CPU time",
    NODE "drain-timeout" "DRAIN_TIMEOUT" "TIME" "20s"
        "How long SIGTERM's hand-over may take; closes are spread evenly over it",
    NODE "drain-rate" "DRAIN_RATE" "COUNT" "1000"
        "Clients a second that one staying node takes from all nodes that leave: they are told when to come back",
    ADDRESSES "bind" "BIND_ADDR" "IP" ["127.0.0.1; 0.0.0.0 in production"]
        "Address of both listeners",
    ADDRESSES "client-port" "CLIENT_SOCKET_PORT" "PORT" "4000"
        "Where clients connect (public); 0 asks the system for a free one",
    ADDRESSES "worker-port" "WORKER_SOCKET_PORT" "PORT" "4001"
        "Where workers and operators connect (internal); 0 asks the system for a free one",
    ADDRESSES "client-url" "CLIENT_SOCKET_URL" "URL" ["from bind and port"]
        "The address that clients are told",
    ADDRESSES "worker-url" "WORKER_SOCKET_URL" "URL" ["from bind and port"]
        "The address that workers are told",
    REDIS "redis-url" "REDIS_URL" "URL" "redis://127.0.0.1:6379"
        "redis://, rediss:// (TLS) or unix:// address of the server; redis+sentinel://h1,h2/name; redis+cluster://h1,h2" secret,
    REDIS "redis-db" "REDIS_DB" "NUMBER" ["0, or the URL's"]
        "Database; wins over one in the URL",
    REDIS "redis-pool-size" "REDIS_POOL_SIZE" "COUNT" "4"
        "Most pooled connections to each master, 1 to 1000",
    REDIS "redis-ca" "REDIS_CA" "FILE" ["system roots"]
        "PEM file of the authorities to trust with rediss://",
    REDIS "redis-cert" "REDIS_CERT" "FILE" ["none"]
        "PEM file of this client's certificate for rediss://; goes with --redis-key",
    REDIS "redis-key" "REDIS_KEY" "FILE" ["none"]
        "PEM file of its key",
    REDIS "key-prefix" "KEY_PREFIX" "TEXT" ["empty"]
        "Put before every key",
    REDIS "wait-replicas" "WAIT_REPLICAS" "COUNT" "0"
        "Replicas that must have an event before it is acknowledged; with fewer it is answered with unavailable",
    REDIS "wait-timeout" "WAIT_TIMEOUT" "TIME" "500ms"
        "How long those replicas may take",
    REDIS "ingress" "INGRESS" "STREAMS" "events"
        "Comma-separated streams that anyone may publish to with XADD; each is read by one node at a time",
    ACCESS "client-origin" "CLIENT_ORIGIN" "ORIGINS" ["any in development"]
        "Comma-separated origins that browsers may connect from; https://*.example.com matches subdomains, * any; \
         not set, pages of other machines cannot reach the worker port",
    ACCESS "auth" "AUTH_MODE" "MODE" ["none in development"]
        "none: a client is whoever it says it is; jwt: by a signed token; api: by asking the API server",
    ACCESS "jwt-secret" "JWT_SECRET" "TEXT" ["none"]
        "--auth jwt: the secret that tokens are signed with (HS256)" secret,
    ACCESS "jwt-public-key" "JWT_PUBLIC_KEY" "PEM|FILE" ["none"]
        "--auth jwt: the public key that tokens are checked with, as PEM text or a file of it (RS256, ES256, EdDSA)" secret,
    ACCESS "jwt-jwks" "JWT_JWKS" "FILE|URL" ["none"]
        "--auth jwt: the set of such keys (JWKS), a file or a URL, read again where a token names a key that is not in it",
    ACCESS "jwt-audience" "JWT_AUDIENCE" "NAMES" ["any"]
        "--auth jwt: tokens must be for one of these (aud), comma-separated",
    ACCESS "jwt-issuer" "JWT_ISSUER" "NAMES" ["any"]
        "--auth jwt: tokens must come from one of these (iss), comma-separated",
    ACCESS "worker-token" "WORKER_TOKEN" "TOKENS" ["none"]
        "Bearer tokens that open the worker port, comma-separated for rotation; none leaves it open" secret,
    ACCESS "api-server-url" "API_SERVER_URL" "URL" ["none"]
        "--auth api: base URL of the API server that is asked who a client is",
    ACCESS "auth-path" "AUTH_PATH" "PATH" "/socket/auth"
        "--auth api: the path there that is asked, by POST",
    ACCESS "trusted-proxies" "TRUSTED_PROXIES" "NETWORKS" ["none"]
        "Comma-separated networks (10.0.0.0/8) whose X-Forwarded-For is believed",
    SESSIONS "session-ttl" "SESSION_TTL" "TIME" "60s"
        "How long a user's keys outlive the last heartbeat; renewed every third of it, or of --log-ttl where that is less",
    SESSIONS "node-ttl" "NODE_TTL" "TIME" "10s"
        "How long a node counts as alive after its last heartbeat; renewed every third of it, or every second if that is less",
    SESSIONS "ping-interval" "PING_INTERVAL" "TIME" "25s"
        "WebSocket ping to every client and worker",
    SESSIONS "pong-timeout" "PONG_TIMEOUT" "TIME" "10s"
        "A peer that stays silent longer is closed",
    SESSIONS "hello-timeout" "HELLO_TIMEOUT" "TIME" "10s"
        "For the handshake, and for the hello frame",
    SESSIONS "log-length" "LOG_LENGTH" "COUNT" "256"
        "Events kept per user, 1 to 100000",
    SESSIONS "log-ttl" "LOG_TTL" "TIME" "10m"
        "How long a user's log is kept, at least, after its last event",
    SESSIONS "max-message" "MAX_MESSAGE" "SIZE" "64KiB"
        "Largest frame a client may send",
    SESSIONS "max-event" "MAX_EVENT" "SIZE" "1MiB"
        "Largest event a worker may publish, by the bytes of its data and its name",
    SESSIONS "max-sessions-per-user" "MAX_SESSIONS_PER_USER" "COUNT" "32"
        "Over all nodes; one more is refused, a replaced one does not count",
    SESSIONS "max-connections" "MAX_CONNECTIONS" "COUNT" ["from the limit on open files"]
        "Clients on this node; one more is refused with 503",
    SESSIONS "max-workers" "MAX_WORKERS" "COUNT" ["from the limit on open files"]
        "Workers' sockets on this node; one more is refused with 503",
    SESSIONS "client-rate" "CLIENT_RATE" "COUNT" "50"
        "Messages a second that one client may send (burst: twice that)",
    SESSIONS "send-queue" "SEND_QUEUE" "COUNT" "256"
        "Events (and at most 1 MiB) that may wait for one slow socket before it catches up from the log",
    SESSIONS "uplink-length" "UPLINK_LENGTH" "COUNT" "100000"
        "Entries kept on uplink, presence and events:dead, each",
    SESSIONS "max-connection-age" "MAX_CONNECTION_AGE" "TIME" ["off"]
        "Sockets older than this (±10 %, at random) are asked to reconnect; off, or a time",
    HIDDEN "bounds" "SWITCHBOARD_BOUNDS" "BOUNDS" ["as they are"]
        "Lowers bounds that have no setting of their own",
}
