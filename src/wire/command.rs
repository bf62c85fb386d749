//! Command bytes and the kind of reply that each one gets.

/// The first byte of a command packet ("Text Protocol" and "Binary Protocol" command list).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Command {
    Quit,
    InitDb,
    Query,
    FieldList,
    CreateDb,
    DropDb,
    Refresh,
    Shutdown,
    Statistics,
    ProcessInfo,
    ProcessKill,
    Debug,
    Ping,
    ChangeUser,
    BinlogDump,
    RegisterSlave,
    StmtPrepare,
    StmtExecute,
    StmtSendLongData,
    StmtClose,
    StmtReset,
    SetOption,
    StmtFetch,
    BinlogDumpGtid,
    ResetConnection,
    StmtBulkExecute,
    /// Any other byte.
    Unknown(u8),
}

/// The shape of the reply to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The server stays silent.
    Nothing,
    /// Exactly one packet: OK, ERR, EOF or a bare string.
    Packet,
    /// OK, ERR, a file request, or result sets.
    Results,
    /// Column definitions up to EOF, without a count before them.
    Fields,
    /// Rows only, up to EOF.
    Rows,
    /// `COM_STMT_PREPARE_OK`, parameters and columns.
    Prepared,
    /// Nobody can say where the reply ends: relay bytes from now on.
    Opaque,
}

impl Command {
    /// Reads a command byte.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => Self::Quit,
            0x02 => Self::InitDb,
            0x03 => Self::Query,
            0x04 => Self::FieldList,
            0x05 => Self::CreateDb,
            0x06 => Self::DropDb,
            0x07 => Self::Refresh,
            0x08 => Self::Shutdown,
            0x09 => Self::Statistics,
            0x0A => Self::ProcessInfo,
            0x0C => Self::ProcessKill,
            0x0D => Self::Debug,
            0x0E => Self::Ping,
            0x11 => Self::ChangeUser,
            0x12 => Self::BinlogDump,
            0x15 => Self::RegisterSlave,
            0x16 => Self::StmtPrepare,
            0x17 => Self::StmtExecute,
            0x18 => Self::StmtSendLongData,
            0x19 => Self::StmtClose,
            0x1A => Self::StmtReset,
            0x1B => Self::SetOption,
            0x1C => Self::StmtFetch,
            0x1E => Self::BinlogDumpGtid,
            0x1F => Self::ResetConnection,
            0xFA => Self::StmtBulkExecute,
            other => Self::Unknown(other),
        }
    }

    /// Whether it names a prepared statement by its number.
    pub fn is_about_statement(self) -> bool {
        matches!(
            self,
            Self::StmtExecute
                | Self::StmtBulkExecute
                | Self::StmtSendLongData
                | Self::StmtClose
                | Self::StmtReset
                | Self::StmtFetch
        )
    }

    /// What the server will answer.
    pub fn expects(self) -> Expect {
        match self {
            Self::Quit | Self::StmtSendLongData | Self::StmtClose => Expect::Nothing,
            Self::InitDb
            | Self::CreateDb
            | Self::DropDb
            | Self::Refresh
            | Self::Shutdown
            | Self::Statistics
            | Self::ProcessKill
            | Self::Debug
            | Self::Ping
            | Self::ChangeUser
            | Self::RegisterSlave
            | Self::StmtReset
            | Self::SetOption
            | Self::ResetConnection => Expect::Packet,
            Self::Query | Self::ProcessInfo | Self::StmtExecute | Self::StmtBulkExecute => Expect::Results,
            Self::FieldList => Expect::Fields,
            Self::StmtFetch => Expect::Rows,
            Self::StmtPrepare => Expect::Prepared,
            Self::BinlogDump | Self::BinlogDumpGtid | Self::Unknown(_) => Expect::Opaque,
        }
    }
}
