//! "Did you mean …?": the known word that a misspelt one most resembles.

/// The candidate nearest to `word`, if it is near enough to be what was meant: at most one edit for each three
/// characters (and at least one), where swapping two neighbours counts as one edit and letter case as none.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long texts are not misspelt words, and the distance takes time by the product of the lengths.
    const LONGEST: usize = 64;
    let word: Vec<char> = word.chars().take(LONGEST + 1).map(|c| c.to_ascii_lowercase()).collect();
    if word.len() > LONGEST {
        return None;
    }
    let allowed = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(word: &[char], candidate: &str) -> usize {
    let other: Vec<char> = candidate.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in word.iter().enumerate() {
        let mut row = Vec::with_capacity(last.len());
        row.push(i + 1);
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && word[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let words = ["shop", "stats", "listen", "password_file"];
        for (typed, meant) in [
            ("shpo", Some("shop")),
            ("Shop", Some("shop")),
            ("sho", Some("shop")),
            ("lisen", Some("listen")),
            ("pasword-file", Some("password_file")),
            ("", None),
            ("x", None),
            ("ship-yard", None),
        ] {
            assert_eq!(nearest(typed, words), meant, "{typed:?}");
        }
        assert_eq!(nearest(&"shop".repeat(1000), words), None);
    }
}
