//! What a fragment does, in a few words: of how Polars describes it.

/// Words of Polars' that begin a line, and ours.
const WORDS: [(&str, &str); 13] = [
    ("FILTER", "filter"),
    ("SELECTION", "filter"),
    ("AGGREGATE", "group_by"),
    ("MAP_GROUPS", "group_by"),
    ("SORT", "sort"),
    ("SLICE", "slice"),
    ("UNIQUE", "unique"),
    ("UNION", "union"),
    ("SLICED UNION", "union"),
    ("WITH_COLUMNS", "with_columns"),
    ("HCONCAT", "concat"),
    ("MERGE_SORTED", "merge_sorted"),
    ("SINK", "sink"),
];
/// Words of a label: the first are what the rows come from.
const MOST: usize = 6;

/// From the innermost line out, which is the order of the rows, each word once in a row.
pub(super) fn label(describe: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for line in describe.lines().rev() {
        let line = line.trim();
        if let Some(word) = word(line)
            && words.last() != Some(&word)
        {
            words.push(word);
        }
    }
    if words.len() > MOST {
        words.drain(MOST / 2..words.len() - MOST / 2);
    }
    if words.is_empty() { "select".to_owned() } else { words.join(", ") }
}

fn word(line: &str) -> Option<String> {
    if let Some((_, of)) = line.split_once(" SCAN [") {
        return Some(format!("scan {}", file(of)));
    }
    if line.starts_with("DF [") {
        return Some("frame".to_owned());
    }
    if !line.starts_with("END") && (line.ends_with(" JOIN:") || line.starts_with("NESTED LOOP")) {
        return Some("join".to_owned());
    }
    let (_, ours) = WORDS.iter().find(|(theirs, _)| line.starts_with(theirs))?;
    Some((*ours).to_owned())
}

/// The name of the first file of a list, and that there are more.
fn file(list: &str) -> String {
    let (first, more) = match list.split_once(", ") {
        Some((first, _)) => (first, ", .."),
        None => (list.trim_end_matches(']'), ""),
    };
    let name = first.trim_matches('"').rsplit(['/', '\\']).next().unwrap_or(first);
    format!("{}{more}", name.trim_end_matches(['"', ']']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_what_the_rows_come_from_and_what_is_done_to_them() {
        let describe = r#"SORT BY [col("x")]
  AGGREGATE
    [col("y").sum()] BY [col("x")]
    FROM
      INNER JOIN:
      LEFT PLAN ON: [col("x")]
        Parquet SCAN [/data/orders/a.parquet, /data/orders/b.parquet]
        PROJECT 2/9 COLUMNS
        SELECTION: [(col("y")) > (1)]
      RIGHT PLAN ON: [col("x")]
        DF ["x", "z"]; PROJECT */2 COLUMNS
      END INNER JOIN"#;
        assert_eq!(label(describe), "frame, filter, scan a.parquet, .., join, group_by, sort");
        assert_eq!(label("Csv SCAN [words.csv]"), "scan words.csv");
        assert_eq!(label(" WITH_COLUMNS:\n [x]\n  FILTER y\n  FROM\n   DF [x]"), "frame, filter, with_columns");
        assert_eq!(label("SELECT [len()]"), "select");
        let long = "FILTER a\nSORT b\n".repeat(20);
        assert_eq!(label(&long).split(", ").count(), MOST);
    }
}
