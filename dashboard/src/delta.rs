//! What has changed between two JSON values. Pure.

use serde_json::{Map, Value, json};

/// How to make the one of the other; `None`: they are the same. `[value]` puts a value in place, `[]` takes it away, and an object goes
/// into the object or the array that is there, by keys or places; `#` is an array's new length.
pub(crate) fn delta(old: &Value, new: &Value) -> Option<Value> {
    let whole = || Some(json!([new]));
    match (old, new) {
        _ if old == new => None,
        (Value::Object(old), Value::Object(new)) => {
            // An object with such a key could be taken for an array.
            if new.contains_key("#") {
                return whole();
            }
            let mut changes = Map::new();
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                changes.insert(key.clone(), json!([]));
            }
            for (key, value) in new {
                let change = match old.get(key) {
                    Some(old) => delta(old, value),
                    None => Some(json!([value])),
                };
                changes.extend(change.map(|change| (key.clone(), change)));
            }
            Some(Value::Object(changes))
        }
        (Value::Array(old), Value::Array(new)) if new.iter().any(|value| value.is_object() || value.is_array()) => {
            let mut changes = Map::new();
            if old.len() != new.len() {
                changes.insert("#".to_owned(), json!(new.len()));
            }
            for (at, value) in new.iter().enumerate() {
                let change = match old.get(at) {
                    Some(old) => delta(old, value),
                    None => Some(json!([value])),
                };
                changes.extend(change.map(|change| (at.to_string(), change)));
            }
            Some(Value::Object(changes))
        }
        _ => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page does with it.
    fn apply(old: Value, change: &Value) -> Value {
        match (old, change) {
            (_, Value::Array(whole)) => whole[0].clone(),
            (Value::Object(mut old), Value::Object(changes)) => {
                for (key, change) in changes {
                    if change == &json!([]) {
                        old.remove(key);
                    } else {
                        let value = apply(old.remove(key).unwrap_or(Value::Null), change);
                        old.insert(key.clone(), value);
                    }
                }
                Value::Object(old)
            }
            (Value::Array(mut old), Value::Object(changes)) => {
                if let Some(length) = changes.get("#") {
                    old.resize(length.as_u64().unwrap() as usize, Value::Null);
                }
                for (at, change) in changes.iter().filter(|(key, _)| *key != "#") {
                    let at: usize = at.parse().unwrap();
                    old[at] = apply(std::mem::take(&mut old[at]), change);
                }
                Value::Array(old)
            }
            (old, change) => panic!("{change} of {old}"),
        }
    }

    /// Some value or other.
    fn made(random: &mut u64, depth: u32) -> Value {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let kind = (*random >> 33) % if depth == 0 { 4 } else { 7 };
        let few = (*random >> 45) % 4;
        match kind {
            0 => Value::Null,
            1 => json!(few),
            2 => json!(few == 1),
            3 => json!("x".repeat(few as usize)),
            4 | 5 => {
                (0..few).map(|key| (["a", "b", "#", "0"][key as usize].to_owned(), made(random, depth - 1))).collect()
            }
            _ => (0..few).map(|_| made(random, depth - 1)).collect(),
        }
    }

    #[test]
    fn a_change_makes_the_new_value_of_the_old_one() {
        let mut random = 7;
        let mut different = 0;
        for _ in 0..20_000 {
            let (old, new) = (made(&mut random, 3), made(&mut random, 3));
            match delta(&old, &new) {
                None => assert_eq!(old, new),
                Some(change) => {
                    different += 1;
                    assert_ne!(old, new);
                    assert_eq!(apply(old.clone(), &change), new, "{old} to {new} by {change}");
                }
            }
        }
        assert!(different > 10_000);
    }

    #[test]
    fn a_change_of_a_figure_in_a_long_table_is_short() {
        let rows = |busy: f64| -> Value {
            (0..1000).map(|worker| json!({ "worker": worker, "busy": if worker == 500 { busy } else { 1.5 }, "address": "10.0.0.1:7700" })).collect()
        };
        let change = delta(&json!({ "workers": rows(1.0) }), &json!({ "workers": rows(2.0) })).unwrap();
        assert_eq!(change, json!({ "workers": { "500": { "busy": [2.0] } } }));
    }
}
