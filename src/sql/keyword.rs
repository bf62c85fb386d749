//! Words, and what a call of one leaves in the session.

/// Longest word that has a meaning here, in bytes.
const LONGEST: usize = 24;

/// A word in lower case; empty, if it is too long to have a meaning.
#[derive(Debug)]
pub(super) struct Keyword {
    bytes: [u8; LONGEST],
    length: usize,
}

/// What a call of a function leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Nothing.
    Harmless,
    /// Something that a reset of the connection takes away.
    Cleared,
    /// Nothing, but it tells what the statement before left.
    Recalls,
    /// Nobody knows: it may be somebody's stored function.
    Foreign,
}

impl Keyword {
    pub(super) const NONE: Self = Self { bytes: [0; LONGEST], length: 0 };

    /// Becomes this word.
    #[inline]
    pub(super) fn set(&mut self, word: &[u8]) {
        self.length = 0;
        if word.len() <= LONGEST {
            for (to, from) in self.bytes.iter_mut().zip(word) {
                *to = from | (u8::from(from.is_ascii_uppercase()) << 5);
            }
            self.length = word.len();
        }
    }

    #[inline]
    pub(super) fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// What a call of the function with this name leaves behind.
    pub(super) fn call(&self) -> Call {
        let word = self.text();
        let is = |known: &&str| word.cmp(known.as_bytes()).reverse();
        if HARMLESS.binary_search_by(is).is_ok() {
            Call::Harmless
        } else if CLEARED.binary_search_by(is).is_ok() {
            Call::Cleared
        } else if RECALLS.binary_search_by(is).is_ok() {
            Call::Recalls
        } else {
            Call::Foreign
        }
    }
}

/// Functions of the server's own that do leave something, all of which a reset of the connection takes away.
const CLEARED: &[&str] = &[
    "get_lock",
    "is_free_lock",
    "is_used_lock",
    "lastval",
    "nextval",
    "release_all_locks",
    "release_lock",
    "setval",
];

/// Functions of the server's own that tell what the statement before left.
const RECALLS: &[&str] = &["found_rows", "last_insert_id", "row_count"];

/// Functions that neither read nor leave anything in the session. A call of any other function is
/// unknown: it may take a lock, set a variable or be somebody's stored function.
const HARMLESS: &[&str] = &[
    "abs",
    "adddate",
    "addtime",
    "against",
    "all",
    "and",
    "any",
    "as",
    "ascii",
    "atan",
    "avg",
    "between",
    "bigint",
    "bin",
    "binary",
    "bit_and",
    "bit_count",
    "bit_length",
    "bit_or",
    "bit_xor",
    "by",
    "case",
    "cast",
    "ceil",
    "ceiling",
    "char",
    "char_length",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "connection_id",
    "conv",
    "convert",
    "cos",
    "cot",
    "count",
    "crc32",
    "curdate",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "curtime",
    "database",
    "date",
    "date_add",
    "date_format",
    "date_sub",
    "datediff",
    "datetime",
    "day",
    "dayname",
    "dayofmonth",
    "dayofweek",
    "dayofyear",
    "decimal",
    "degrees",
    "dense_rank",
    "distinct",
    "else",
    "elt",
    "exists",
    "exp",
    "extract",
    "field",
    "find_in_set",
    "first_value",
    "floor",
    "force",
    "format",
    "from",
    "from_base64",
    "from_days",
    "from_unixtime",
    "greatest",
    "group_concat",
    "having",
    "hex",
    "hour",
    "if",
    "ifnull",
    "ignore",
    "in",
    "index",
    "inet6_aton",
    "inet6_ntoa",
    "inet_aton",
    "inet_ntoa",
    "insert",
    "instr",
    "int",
    "integer",
    "interval",
    "is",
    "isnull",
    "join",
    "json_array",
    "json_arrayagg",
    "json_contains",
    "json_exists",
    "json_extract",
    "json_keys",
    "json_length",
    "json_merge",
    "json_merge_patch",
    "json_object",
    "json_objectagg",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_search",
    "json_set",
    "json_type",
    "json_unquote",
    "json_valid",
    "json_value",
    "key",
    "lag",
    "last_day",
    "last_value",
    "lcase",
    "lead",
    "least",
    "left",
    "length",
    "like",
    "ln",
    "locate",
    "log",
    "log10",
    "log2",
    "lower",
    "lpad",
    "ltrim",
    "make_set",
    "makedate",
    "maketime",
    "match",
    "max",
    "md5",
    "microsecond",
    "mid",
    "min",
    "minute",
    "mod",
    "month",
    "monthname",
    "not",
    "now",
    "ntile",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "on",
    "or",
    "ord",
    "over",
    "partition",
    "period_add",
    "period_diff",
    "pi",
    "position",
    "pow",
    "power",
    "quarter",
    "quote",
    "radians",
    "rand",
    "rank",
    "regexp_instr",
    "regexp_replace",
    "regexp_substr",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "row_number",
    "rpad",
    "rtrim",
    "schema",
    "sec_to_time",
    "second",
    "select",
    "sha",
    "sha1",
    "sha2",
    "sign",
    "signed",
    "sin",
    "sleep",
    "some",
    "soundex",
    "space",
    "sqrt",
    "std",
    "stddev",
    "str_to_date",
    "strcmp",
    "subdate",
    "substr",
    "substring",
    "subtime",
    "sum",
    "sysdate",
    "tan",
    "then",
    "time",
    "time_format",
    "time_to_sec",
    "timediff",
    "timestamp",
    "timestampadd",
    "timestampdiff",
    "to_base64",
    "to_days",
    "to_seconds",
    "trim",
    "truncate",
    "ucase",
    "unhex",
    "union",
    "unix_timestamp",
    "unsigned",
    "upper",
    "use",
    "user",
    "using",
    "utc_timestamp",
    "uuid",
    "values",
    "var_pop",
    "var_samp",
    "varchar",
    "variance",
    "version",
    "week",
    "weekday",
    "weekofyear",
    "when",
    "where",
    "year",
    "yearweek",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_function_is_found_in_any_case() {
        let called = |word: &[u8]| {
            let mut keyword = Keyword::NONE;
            keyword.set(word);
            keyword.call()
        };
        for (list, call) in [(HARMLESS, Call::Harmless), (CLEARED, Call::Cleared), (RECALLS, Call::Recalls)] {
            assert!(list.is_sorted());
            for word in list {
                assert_eq!(called(word.to_ascii_uppercase().as_bytes()), call, "{word}");
                let longer = format!("{word}x");
                assert_eq!(called(longer.as_bytes()), Call::Foreign, "{longer}");
            }
        }
        assert_eq!(called(b""), Call::Foreign);
        assert_eq!(called(&[b'a'; LONGEST + 1]), Call::Foreign);
    }
}
