//! Sockets: listening with care, client streams, TLS, and packets over a stream.

mod listen;
mod packets;
mod stream;
mod tls;

pub use listen::{Access, Bound, Listener, bind};
pub use packets::{PacketStream, ReadError};
pub use stream::{StdStream, Stream};
pub use tls::accept_tls;
