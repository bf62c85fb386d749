//! "Did you mean …?" for words of the console and of requests.

/// The word that was most likely meant, if any is near: at most one slip (a letter too many, missing, wrong, or two
/// neighbours swapped) for each three letters, and always at least one.
pub(super) fn nearest(typed: &str, words: &[&'static str]) -> Option<&'static str> {
    const LONGEST: usize = 32;
    let typed: Vec<char> = typed.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
    if typed.is_empty() || typed.len() > LONGEST {
        return None;
    }
    let allowed = (typed.len() / 3).max(1);
    let near = words.iter().map(|word| (slips(&typed, word), *word));
    near.filter(|(slips, word)| *slips <= allowed && *slips < word.len()).min().map(|(_, word)| word)
}

/// How many slips lead from one word to the other.
fn slips(typed: &[char], word: &str) -> usize {
    let word: Vec<char> = word.chars().collect();
    let mut table = vec![vec![0; word.len() + 1]; typed.len() + 1];
    for i in 0..=typed.len() {
        for j in 0..=word.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let wrong = table[i - 1][j - 1] + usize::from(typed[i - 1] != word[j - 1]);
                let extra_or_missing = table[i - 1][j].min(table[i][j - 1]) + 1;
                let mut least = wrong.min(extra_or_missing);
                if i > 1 && j > 1 && typed[i - 1] == word[j - 2] && typed[i - 2] == word[j - 1] {
                    least = least.min(table[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    table[typed.len()][word.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let words = ["show", "set", "kill", "maintenance"];
        for (typed, meant) in [
            ("shwo", Some("show")),
            ("SHOW", Some("show")),
            ("sett", Some("set")),
            ("kil", Some("kill")),
            ("maintenence", Some("maintenance")),
            ("", None),
            ("x", None),
            ("delete", None),
        ] {
            assert_eq!(nearest(typed, &words), meant, "{typed:?}");
        }
        assert_eq!(nearest(&"show".repeat(100), &words), None);
    }
}
