//! The three ways to give a secret: in the file, in a file of its own, in a variable of the environment; and other
//! files that the configuration names.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Secret;
use super::problem::{Report, shown};
use super::reader::{Field, Section};
use super::secret::{self, MAX_SECRET};

/// The largest file with certificates or a key that is read, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// The three keys that can give one secret.
pub(super) struct SecretKeys {
    pub(super) value: &'static str,
    file: &'static str,
    env: &'static str,
}

pub(super) const PASSWORD: SecretKeys =
    SecretKeys { value: "password", file: "password_file", env: "password_env" };
pub(super) const REPLICATION_PASSWORD: SecretKeys = SecretKeys {
    value: "replication_password",
    file: "replication_password_file",
    env: "replication_password_env",
};
pub(super) const TOKEN: SecretKeys = SecretKeys { value: "token", file: "token_file", env: "token_env" };

impl SecretKeys {
    pub(super) fn expected(&self) -> String {
        format!("exactly one of {}, {}, {}", self.value, self.file, self.env)
    }
}

/// Where secrets and paths are looked up.
pub(super) struct Surroundings<'a> {
    pub(super) report: &'a Report<'a>,
    /// Where relative paths start.
    pub(super) dir: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// Everybody on this machine may read the configuration file.
    pub(super) exposed: bool,
}

impl<'a> Surroundings<'a> {
    /// A path, started at the directory of the configuration file when it is relative.
    pub(super) fn path(&self, field: &Field<'a>) -> Option<PathBuf> {
        let expected = "the path of a file";
        let text = field.string(expected)?;
        if text.is_empty() || text.contains('\0') || text.ends_with('/') {
            field.wrong("is not the path of a file", expected);
            return None;
        }
        Some(self.dir.join(text))
    }

    /// What the three `keys` of `section` give.
    pub(super) fn secret(&self, section: &Section<'a>, keys: &SecretKeys) -> Given {
        let value = section.get(keys.value);
        let file = section.get(keys.file);
        let env = section.get(keys.env);
        let mut given: Vec<&Field<'a>> = [&value, &file, &env].into_iter().flatten().collect();
        given.sort_by_key(|field| field.place.at);
        if let [first, rest @ ..] = &given[..] {
            for field in rest {
                let message =
                    format!("given besides {} (line {})", first.place.key, self.report.line(&first.place));
                self.report.conflict(&field.place, message, keys.expected(), None);
            }
        }
        let secrets = [
            value.as_ref().map(|field| self.inline_secret(field, keys)),
            file.as_ref().map(|field| self.secret_file(field, keys)),
            env.as_ref().map(|field| self.secret_variable(field, keys)),
        ];
        match secrets.into_iter().flatten().next() {
            Some(Some(secret)) => Given::Secret(secret),
            Some(None) => Given::Wrong,
            None => Given::Nothing,
        }
    }

    /// The same where one must be given. `None`: it is not, or wrong, and reported.
    pub(super) fn required_secret(&self, section: &Section<'a>, keys: &SecretKeys) -> Option<Secret> {
        let given = self.secret(section, keys);
        if let Given::Nothing = given {
            let message = format!("no {} is given, and an empty one is not accepted", keys.value);
            self.report.conflict(&section.place, message, keys.expected(), None);
        }
        given.secret()
    }

    fn inline_secret(&self, field: &Field<'a>, keys: &SecretKeys) -> Option<Secret> {
        let secret = Secret::new(field.string("a string")?);
        if self.exposed {
            let message = format!(
                "everybody on this machine can read this file, which holds a {}: chmod 640, or use {}",
                keys.value, keys.file
            );
            self.report.warn(&field.place, &message);
        }
        usable(field, keys, secret)
    }

    fn secret_file(&self, field: &Field<'a>, keys: &SecretKeys) -> Option<Secret> {
        let (path, name) = self.named(field)?;
        match Secret::read(&path) {
            Ok((secret, exposed)) => {
                if exposed {
                    self.warn_of_readers(field, &name);
                }
                usable(field, keys, secret)
            }
            Err(why) => {
                let expected = format!("a file that holds the {}", keys.value);
                self.report.conflict(&field.place, format!("{name} can not be read: {why}"), expected, None);
                None
            }
        }
    }

    /// The path and the bytes of a file. A secret one should be readable for few.
    pub(super) fn file(
        &self,
        field: &Field<'a>,
        is_secret: bool,
        expected: &str,
    ) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
        let (path, name) = self.named(field)?;
        match secret::read_bytes(&path, MAX_PEM) {
            Ok((bytes, exposed)) => {
                if is_secret && exposed {
                    self.warn_of_readers(field, &name);
                }
                Some((path, bytes))
            }
            Err(why) => {
                let message = format!("{name} can not be read: {why}");
                self.report.conflict(&field.place, message, expected.to_owned(), None);
                None
            }
        }
    }

    /// The path of a file, and its name for messages.
    fn named(&self, field: &Field<'a>) -> Option<(PathBuf, String)> {
        let path = self.path(field)?;
        // A relative path might be the secret itself, written at the wrong key.
        let is_absolute = field.string("")?.starts_with('/');
        let name = if is_absolute { shown(&path.to_string_lossy()) } else { "the file".to_owned() };
        Some((path, name))
    }

    fn warn_of_readers(&self, field: &Field<'a>, name: &str) {
        let message = format!("everybody on this machine can read {name}: chmod 640");
        self.report.warn(&field.place, &message);
    }

    fn secret_variable(&self, field: &Field<'a>, keys: &SecretKeys) -> Option<Secret> {
        let expected = format!("the name of a variable of the environment that holds the {}", keys.value);
        let name = field.string(&expected)?;
        let variable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if let Some(text) = (self.env)(name) {
            return usable(field, keys, Secret::new(text));
        }
        // A name of another form might be the secret itself, written at the wrong key.
        let message = if !name.is_empty() && name.chars().all(variable) {
            format!("the variable {name} is not set")
        } else {
            "this variable is not set".to_owned()
        };
        self.report.conflict(&field.place, message, expected, None);
        None
    }
}

/// What the three keys of a secret gave.
pub(super) enum Given {
    Nothing,
    Secret(Secret),
    /// Given, but not usable; reported already.
    Wrong,
}

impl Given {
    /// The secret, if one was given that can be used.
    pub(super) fn secret(self) -> Option<Secret> {
        match self {
            Self::Secret(secret) => Some(secret),
            Self::Nothing | Self::Wrong => None,
        }
    }

    /// `Some(None)`: nothing was given, and nothing need be.
    #[expect(
        clippy::option_option,
        reason = "the outer one is a problem reported, as everywhere in this module"
    )]
    pub(super) fn optional(self) -> Option<Option<Secret>> {
        match self {
            Self::Secret(secret) => Some(Some(secret)),
            Self::Nothing => Some(None),
            Self::Wrong => None,
        }
    }
}

/// The secret, unless it is empty or can not be sent: a console's password is one line, a token is part of an HTTP
/// header, and a NUL ends a password in the login of a client.
fn usable(field: &Field<'_>, keys: &SecretKeys, secret: Secret) -> Option<Secret> {
    let text = secret.expose();
    let (wrong, expected) = if text.is_empty() {
        ("is empty", "at least one character")
    } else if keys.value == TOKEN.value && !text.bytes().all(|b| b.is_ascii_graphic()) {
        ("can not be sent in an HTTP header", "visible ASCII characters without spaces")
    } else if text.contains(['\n', '\r', '\0']) {
        ("holds a line break or a NUL character", "one line")
    } else if text.len() as u64 > MAX_SECRET {
        ("is too long", "at most 4096 bytes")
    } else {
        return Some(secret);
    };
    field.wrong(wrong, expected);
    None
}
