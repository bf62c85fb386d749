//! Sockets: listening with care, client streams, and packets over a stream.

mod listen;
mod packets;
mod stream;

pub use listen::{Access, Bound, Listener, bind};
pub use packets::{PacketStream, ReadError};
pub use stream::{StdStream, Stream};
