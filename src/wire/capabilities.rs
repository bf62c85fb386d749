//! Capability and status flags of both products.
//!
//! `MariaDB` keeps its own capabilities in a second 32-bit word, present only where the `CLIENT_MYSQL`
//! bit is clear. Both words are one 64-bit set here: the second word is the upper half.

use bitflags::bitflags;

bitflags! {
    /// Capabilities of the connection phase ("Capabilities Flags", MySQL; "Capabilities", MariaDB).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Capabilities: u64 {
        /// `CLIENT_MYSQL` (MariaDB) or `CLIENT_LONG_PASSWORD` (MySQL). Clear: MariaDB's second word is present.
        const MYSQL = 1;
        /// Affected rows are found rows.
        const FOUND_ROWS = 1 << 1;
        /// Longer flags in column definitions.
        const LONG_FLAG = 1 << 2;
        /// The handshake response names a default schema.
        const CONNECT_WITH_DB = 1 << 3;
        /// Do not allow `schema.table.column`.
        const NO_SCHEMA = 1 << 4;
        /// zlib compression after the handshake.
        const COMPRESS = 1 << 5;
        /// ODBC client.
        const ODBC = 1 << 6;
        /// The client answers `LOAD DATA LOCAL` requests.
        const LOCAL_FILES = 1 << 7;
        /// Spaces before `(` are allowed.
        const IGNORE_SPACE = 1 << 8;
        /// Protocol 4.1.
        const PROTOCOL_41 = 1 << 9;
        /// `interactive_timeout` applies.
        const INTERACTIVE = 1 << 10;
        /// TLS.
        const SSL = 1 << 11;
        /// The client ignores SIGPIPE.
        const IGNORE_SIGPIPE = 1 << 12;
        /// Status flags in OK packets.
        const TRANSACTIONS = 1 << 13;
        /// Old name of protocol 4.1.
        const RESERVED = 1 << 14;
        /// 20-byte scramble authentication.
        const SECURE_CONNECTION = 1 << 15;
        /// Several statements in one `COM_QUERY`.
        const MULTI_STATEMENTS = 1 << 16;
        /// Several results to one `COM_QUERY`.
        const MULTI_RESULTS = 1 << 17;
        /// Several results to one `COM_STMT_EXECUTE`.
        const PS_MULTI_RESULTS = 1 << 18;
        /// Authentication plugins and auth switch.
        const PLUGIN_AUTH = 1 << 19;
        /// Connection attributes in the handshake response.
        const CONNECT_ATTRS = 1 << 20;
        /// The authentication reply has a length-encoded length.
        const PLUGIN_AUTH_LENENC_DATA = 1 << 21;
        /// The client accepts expired passwords (sandbox).
        const CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22;
        /// Session state changes in OK packets.
        const SESSION_TRACK = 1 << 23;
        /// No EOF packets after column definitions; an OK packet ends rows.
        const DEPRECATE_EOF = 1 << 24;
        /// Column definitions may be left out (MySQL).
        const OPTIONAL_RESULTSET_METADATA = 1 << 25;
        /// zstd compression.
        const ZSTD_COMPRESSION = 1 << 26;
        /// Query attributes (MySQL).
        const QUERY_ATTRIBUTES = 1 << 27;
        /// Multi-factor authentication (MySQL).
        const MULTI_FACTOR_AUTHENTICATION = 1 << 28;
        /// Extensible capability word (MySQL, reserved).
        const CAPABILITY_EXTENSION = 1 << 29;
        /// Verify the server certificate; client side only, never sent on purpose.
        const SSL_VERIFY_SERVER_CERT = 1 << 30;
        /// Remember options; client side only.
        const REMEMBER_OPTIONS = 1 << 31;

        /// MariaDB: progress reports in ERR packets with code 0xFFFF.
        const PROGRESS = 1 << 32;
        /// MariaDB: `COM_MULTI`, withdrawn.
        const COM_MULTI = 1 << 33;
        /// MariaDB: `COM_STMT_BULK_EXECUTE`.
        const STMT_BULK_OPERATIONS = 1 << 34;
        /// MariaDB: extended type information in column definitions.
        const EXTENDED_METADATA = 1 << 35;
        /// MariaDB: column definitions may be left out when unchanged.
        const CACHE_METADATA = 1 << 36;
        /// MariaDB: one result per row of a bulk execution.
        const BULK_UNIT_RESULTS = 1 << 37;

        const _ = !0;
    }
}

bitflags! {
    /// Server status flags in OK and EOF packets.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Status: u16 {
        /// A transaction is open.
        const IN_TRANSACTION = 1;
        /// Autocommit is on.
        const AUTOCOMMIT = 1 << 1;
        /// Another result follows this one.
        const MORE_RESULTS = 1 << 3;
        /// A read-only cursor stands open behind this result.
        const CURSOR_EXISTS = 1 << 6;
        /// The last row of a cursor was sent.
        const LAST_ROW_SENT = 1 << 7;
        /// A schema was dropped.
        const DATABASE_DROPPED = 1 << 8;
        /// `NO_BACKSLASH_ESCAPES` is in force.
        const NO_BACKSLASH_ESCAPES = 1 << 9;
        /// This is the OUT parameter set of a procedure.
        const PS_OUT_PARAMETERS = 1 << 12;
        /// The open transaction is read-only.
        const IN_TRANSACTION_READONLY = 1 << 13;
        /// Session state information follows.
        const SESSION_STATE_CHANGED = 1 << 14;

        const _ = !0;
    }
}

impl Capabilities {
    /// MariaDB's own capabilities: the upper word.
    pub const MARIADB: Self = Self::from_bits_retain(0xFFFF_FFFF_0000_0000);

    /// What the relay understands well enough to follow every reply.
    ///
    /// Left out on purpose: compression (the relay reads packets as they are), TLS (the greeting of a service that has
    /// it offers it), optional
    /// result-set metadata (its first byte cannot be told from an OK packet), multi-factor
    /// authentication and the withdrawn `COM_MULTI`.
    pub const RELAYED: Self = Self::from_bits_retain(
        Self::MYSQL.bits()
            | Self::FOUND_ROWS.bits()
            | Self::LONG_FLAG.bits()
            | Self::CONNECT_WITH_DB.bits()
            | Self::NO_SCHEMA.bits()
            | Self::ODBC.bits()
            | Self::LOCAL_FILES.bits()
            | Self::IGNORE_SPACE.bits()
            | Self::PROTOCOL_41.bits()
            | Self::INTERACTIVE.bits()
            | Self::IGNORE_SIGPIPE.bits()
            | Self::TRANSACTIONS.bits()
            | Self::RESERVED.bits()
            | Self::SECURE_CONNECTION.bits()
            | Self::MULTI_STATEMENTS.bits()
            | Self::MULTI_RESULTS.bits()
            | Self::PS_MULTI_RESULTS.bits()
            | Self::PLUGIN_AUTH.bits()
            | Self::CONNECT_ATTRS.bits()
            | Self::PLUGIN_AUTH_LENENC_DATA.bits()
            | Self::CAN_HANDLE_EXPIRED_PASSWORDS.bits()
            | Self::SESSION_TRACK.bits()
            | Self::DEPRECATE_EOF.bits()
            | Self::QUERY_ATTRIBUTES.bits()
            | Self::PROGRESS.bits()
            | Self::STMT_BULK_OPERATIONS.bits()
            | Self::EXTENDED_METADATA.bits()
            | Self::CACHE_METADATA.bits()
            | Self::BULK_UNIT_RESULTS.bits(),
    );

    /// Without these there is no session: 4.1 packets and 20-byte scrambles.
    pub const REQUIRED: Self =
        Self::from_bits_retain(Self::PROTOCOL_41.bits() | Self::SECURE_CONNECTION.bits());

    /// How a connection is set up, not what its commands look like. The two sides of the proxy
    /// settle these on their own, so they take no part in comparing them.
    pub const PER_HOP: Self = Self::from_bits_retain(
        Self::MYSQL.bits()
            | Self::CONNECT_WITH_DB.bits()
            | Self::PLUGIN_AUTH.bits()
            | Self::CONNECT_ATTRS.bits()
            | Self::PLUGIN_AUTH_LENENC_DATA.bits()
            | Self::SECURE_CONNECTION.bits()
            | Self::RESERVED.bits()
            | Self::IGNORE_SIGPIPE.bits()
            | Self::SSL.bits()
            | Self::SSL_VERIFY_SERVER_CERT.bits()
            | Self::REMEMBER_OPTIONS.bits(),
    );

    /// Joins the words of a greeting or handshake response. The second word counts only when
    /// `CLIENT_MYSQL` is clear.
    pub fn from_words(low: u32, mariadb: u32) -> Self {
        let low = Self::from_bits_retain(u64::from(low));
        if low.contains(Self::MYSQL) { low } else { low | Self::from_bits_retain(u64::from(mariadb) << 32) }
    }

    /// The first 32 bits.
    pub fn low_word(self) -> u32 {
        self.bits() as u32
    }

    /// MariaDB's 32 bits; zero when `CLIENT_MYSQL` is set.
    pub fn mariadb_word(self) -> u32 {
        if self.contains(Self::MYSQL) { 0 } else { (self.bits() >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mariadb_word_counts_only_without_client_mysql() {
        assert_eq!(Capabilities::from_words(1, 0b100), Capabilities::MYSQL);
        assert_eq!(Capabilities::from_words(0, 0b100), Capabilities::STMT_BULK_OPERATIONS);
        assert_eq!((Capabilities::MYSQL | Capabilities::PROGRESS).mariadb_word(), 0);
        assert_eq!(Capabilities::PROGRESS.mariadb_word(), 1);
    }

    #[test]
    fn what_the_relay_cannot_follow_is_never_offered() {
        for cap in [
            Capabilities::COMPRESS,
            Capabilities::ZSTD_COMPRESSION,
            Capabilities::COM_MULTI,
            Capabilities::OPTIONAL_RESULTSET_METADATA,
            Capabilities::MULTI_FACTOR_AUTHENTICATION,
        ] {
            assert!(!Capabilities::RELAYED.intersects(cap));
        }
    }
}
