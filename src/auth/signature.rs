//! What a client signs for a node by `ed25519` or `parsec`, heard in passing and verified from a stored key.
//!
//! The node asks, and judges for itself; Spillway sees its scramble, the signature and the account's row, which is all that
//! a verdict of its own takes.

use super::{Nonce, ed25519, parsec};
use crate::wire::handshake::AuthSwitch;

/// The plugins of accounts whose replies are signatures.
const SIGNED: [&str; 2] = [ed25519::ACCOUNT_PLUGIN, parsec::PLUGIN];

/// Whether what a client answers a node for an account with this plugin can be verified from the stored key.
pub fn is_signed(plugin: &str) -> bool {
    SIGNED.contains(&plugin)
}

/// The last plugin that a node asked a client by, and what was signed for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Heard {
    /// The node asked nothing.
    #[default]
    Nothing,
    /// The node asked by a plugin whose answers are no signatures, or what no server asks.
    Other,
    /// `ed25519`.
    Ed25519 {
        /// What is signed.
        nonce: Nonce,
        /// The signature; none: not answered yet.
        reply: Option<Vec<u8>>,
    },
    /// `parsec`, which has not told its salt yet.
    Parsec {
        /// The server's part of what is signed.
        scramble: Nonce,
    },
    /// `parsec`, which has.
    Salted {
        /// The server's part of what is signed.
        scramble: Nonce,
        /// How the key is made; none: as no server has it.
        params: Option<parsec::Params>,
        /// The client's part and the signature; none: not answered yet.
        reply: Option<Vec<u8>>,
    },
}

impl Heard {
    /// Takes the next question of a node: an auth switch, or what the plugin says after it.
    pub fn asked(&mut self, question: &[u8]) {
        let Ok(switch) = AuthSwitch::decode(question) else {
            *self = match self {
                Self::Parsec { scramble } => Self::Salted {
                    scramble: *scramble,
                    params: question.get(1..).and_then(parsec::Params::decode),
                    reply: None,
                },
                // None of the others has more to say.
                _ => Self::Other,
            };
            return;
        };
        let nonce = Nonce::try_from(switch.data).ok();
        *self = match nonce {
            Some(nonce) if switch.plugin == ed25519::PLUGIN.as_bytes() => {
                Self::Ed25519 { nonce, reply: None }
            }
            Some(scramble) if switch.plugin == parsec::PLUGIN.as_bytes() => Self::Parsec { scramble },
            _ => Self::Other,
        };
    }

    /// Takes the client's answer, and gives what goes to the node.
    ///
    /// That is the same, but for one of `ed25519` that has not the length of a signature. Servers take that for no wrong
    /// password but for a failed handshake, and after some of those in a row they block the host that they come from
    /// (`max_connect_errors`), which is Spillway's. So the node gets a wrong signature in its place.
    pub fn answered(&mut self, answer: Vec<u8>) -> Vec<u8> {
        let answer = match self.wrong() {
            Some(wrong) if wrong.len() != answer.len() => wrong,
            _ => answer,
        };
        if let Self::Ed25519 { reply, .. } | Self::Salted { reply, .. } = self {
            *reply = Some(answer.clone());
        }
        answer
    }

    /// An answer to the last question that is wrong and no failed handshake. None: for this plugin there is none.
    pub fn wrong(&self) -> Option<Vec<u8>> {
        matches!(self, Self::Ed25519 { .. }).then(|| vec![0; ed25519::REPLY])
    }

    /// An answer that is wrong, and leads the node on to the next plugin of the account. None: for this plugin there is none.
    pub fn passed_over(&self) -> Option<Vec<u8>> {
        match self {
            Self::Ed25519 { .. } => self.wrong(),
            // It has the salt to tell first.
            Self::Parsec { .. } => Some(Vec::new()),
            Self::Salted { .. } => Some(vec![0; parsec::REPLY]),
            Self::Nothing | Self::Other => None,
        }
    }

    /// Whether the client signed with the private key to what an account stores for this plugin.
    pub fn is_right(&self, plugin: &str, stored: &str) -> bool {
        match self {
            Self::Ed25519 { nonce, reply: Some(reply) } if plugin == ed25519::ACCOUNT_PLUGIN => {
                ed25519::verify(reply, nonce, &ed25519::Stored::parse(stored))
            }
            Self::Salted { scramble, reply: Some(reply), .. } if plugin == parsec::PLUGIN => {
                parsec::verify(reply, scramble, &parsec::Stored::parse(stored))
            }
            _ => false,
        }
    }

    /// Whether the node would say no if it was told the client's answer, for all that it may know: its own salt, which is
    /// made anew with each password, is that of the stored key, and by that the signature is wrong. Only `parsec` has one.
    pub fn is_hopeless(&self, plugin: &str, stored: &str) -> bool {
        let Self::Salted { params: Some(params), reply: Some(_), .. } = self else { return false };
        plugin == parsec::PLUGIN
            && parsec::Stored::parse(stored).params().as_ref() == Some(params)
            && !self.is_right(plugin, stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: Nonce = *b"abcdefghijklmnopqrstuvwxyz012345";

    fn switch(plugin: &str) -> Vec<u8> {
        [&[0xFE], plugin.as_bytes(), &[0], &NONCE[..]].concat()
    }

    #[test]
    fn ed25519_is_verified_by_its_own_key_only() {
        let mut heard = Heard::default();
        let stored = ed25519::stored(b"secret");
        assert!(!heard.is_right("ed25519", &stored));
        heard.asked(&switch("client_ed25519"));
        assert!(!heard.is_right("ed25519", &stored));
        let reply = ed25519::sign(b"secret", &NONCE).to_vec();
        assert_eq!(heard.answered(reply.clone()), reply);
        assert!(heard.is_right("ed25519", &stored));
        assert!(!heard.is_right("ed25519", &ed25519::stored(b"other")));
        assert!(!heard.is_right("ed25519", "") && !heard.is_right("parsec", &stored));
        // The next question counts, and nothing that was said before it.
        heard.asked(&switch("client_ed25519"));
        assert!(!heard.is_right("ed25519", &stored));
        heard.answered(reply);
        heard.asked(&switch("dialog"));
        assert_eq!(heard, Heard::Other);
        assert!(!heard.is_right("ed25519", &stored));
    }

    #[test]
    fn parsec_is_verified_by_its_own_key_only() {
        let params = parsec::Params::decoy(b"salt", b"of anybody");
        let stored = params.stored(b"secret");
        let salt = [&[1], &params.encode()[..]].concat();
        let mut heard = Heard::default();
        heard.asked(&switch("parsec"));
        assert_eq!(heard.answered(Vec::new()), [0; 0]);
        assert!(!heard.is_right("parsec", &stored));
        heard.asked(&salt);
        let reply = parsec::sign(b"secret", &params, &NONCE, &[7; 32]).to_vec();
        assert_eq!(heard.answered(reply.clone()), reply);
        assert!(heard.is_right("parsec", &stored));
        assert!(!heard.is_right("parsec", &params.stored(b"other")));
        assert!(!heard.is_right("ed25519", &ed25519::stored(b"secret")));
        // Wrong for certain is only what the key to the node's own salt does not verify.
        assert!(
            !heard.is_hopeless("parsec", &stored) && heard.is_hopeless("parsec", &params.stored(b"other"))
        );
        let elsewhere = parsec::Params::decoy(b"salt", b"of another one").stored(b"other");
        assert!(!heard.is_hopeless("parsec", &elsewhere) && !heard.is_hopeless("parsec", ""));
        assert!(!heard.is_hopeless("ed25519", &params.stored(b"other")));
        // A third question is none of the plugin's, and what was signed for the second counts no more.
        heard.asked(&salt);
        assert_eq!(heard, Heard::Other);
        assert!(!heard.is_right("parsec", &stored));
    }

    #[test]
    fn what_a_server_takes_for_a_failed_handshake_is_a_wrong_signature() {
        let mut heard = Heard::default();
        heard.asked(&switch("client_ed25519"));
        for length in [0, 1, 63, 65, 4096] {
            assert_eq!(heard.answered(vec![7; length]), [0; 64]);
        }
        assert_eq!(heard.wrong(), Some(vec![0; 64]));
        assert_eq!(heard.answered(vec![7; 64]), [7; 64]);
        // With all others it is as it is.
        for (question, answer) in [
            (&switch("parsec")[..], &[7; 96][..]),
            (&[1, b'P'], b""),
            (b"\xFEdialog\0\x04Password: ", b"typed\0"),
        ] {
            heard.asked(question);
            assert_eq!(heard.answered(answer.to_vec()), answer);
            assert_eq!(heard.wrong(), None);
        }
        assert_eq!(Heard::Nothing.wrong(), None);
    }

    #[test]
    fn a_plugin_of_signatures_is_passed_over_by_wrong_ones() {
        let mut heard = Heard::default();
        assert_eq!(heard.passed_over(), None);
        heard.asked(&switch("client_ed25519"));
        assert_eq!(heard.passed_over(), Some(vec![0; 64]));
        heard.asked(&switch("parsec"));
        assert_eq!(heard.passed_over(), Some(Vec::new()));
        let params = parsec::Params::decoy(b"salt", b"of anybody");
        heard.asked(&[&[1], &params.encode()[..]].concat());
        let wrong = heard.passed_over().expect("one for parsec");
        heard.answered(wrong);
        assert!(!heard.is_right("parsec", &params.stored(b"secret")));
        heard.asked(&switch("dialog"));
        assert_eq!(heard.passed_over(), None);
    }

    #[test]
    fn a_scramble_of_another_length_is_signed_for_nothing() {
        for plugin in ["client_ed25519", "parsec"] {
            for question in [&switch(plugin)[..38], &[&switch(plugin)[..], &[0]].concat()[..], b"", b"\xFE"] {
                let mut heard = Heard::default();
                heard.asked(question);
                assert_eq!(heard, Heard::Other, "{question:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_no_key_is_found_right(
            said in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..60), proptest::collection::vec(any::<u8>(), 0..100)),
                0..4
            ),
            plugin in prop::sample::select(vec!["client_ed25519", "parsec", "dialog"]),
        ) {
            let mut heard = Heard::default();
            heard.asked(&switch(plugin));
            for (question, answer) in said {
                let passed = heard.answered(answer);
                prop_assert!(heard.wrong().is_none_or(|wrong| wrong.len() == passed.len()));
                heard.asked(&question);
            }
            prop_assert!(!heard.is_right("ed25519", &ed25519::stored(b"secret")));
            let parsec = parsec::Params::decoy(b"", b"").stored(b"secret");
            prop_assert!(!heard.is_right("parsec", &parsec) && !heard.is_hopeless("ed25519", &parsec));
        }
    }
}
