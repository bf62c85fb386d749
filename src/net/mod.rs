//! Sockets: listening with care, streams of clients and nodes, PROXY headers, names of addresses, TLS, and packets over a
//! stream.

mod listen;
mod names;
mod packets;
mod proxy_header;
mod stream;
mod tls;

pub use listen::{Access, Bound, Listener, bind};
pub use names::Names;
pub use packets::{PacketStream, ReadError};
pub use proxy_header::{Announced, HeaderError, read_header, write_header};
pub use stream::{StdStream, Stream, own_uid};
pub use tls::{accept_tls, connect_tls};
