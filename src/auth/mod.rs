//! Authentication plugins, pure: what proves a password, and what answers a server's challenge.

pub mod native;

use crate::wire::handshake::{SCRAMBLE, Scramble};

/// A fresh scramble from the operating system's random numbers.
///
/// Like the servers' own, it holds 7-bit bytes other than NUL and `$`: clients read it as text.
///
/// # Errors
/// When the operating system gives no random numbers; no login is possible then.
pub fn scramble() -> Result<Scramble, getrandom::Error> {
    let mut bytes = [0; SCRAMBLE];
    getrandom::fill(&mut bytes)?;
    for byte in &mut bytes {
        *byte &= 0x7F;
        if *byte == 0 || *byte == b'$' {
            *byte += 1;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn scrambles_differ_and_hold_no_nul() {
        let (a, b) = (super::scramble().unwrap(), super::scramble().unwrap());
        assert_ne!(a, b);
        assert!(a.iter().chain(&b).all(|c| *c != 0 && *c != b'$' && *c < 128));
    }
}
