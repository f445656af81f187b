//! Older shapes of records and prompt files, brought to today's one step a version.

use serde_json::{Map, Value};

/// Schema 1 kept the suite's settings among the method's.
///
/// Does nothing to a value that is no object or has no settings; its reader says what is wrong with it.
pub(crate) fn from_1(value: &mut Value) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    let Some(settings) = object.get_mut("settings").and_then(Value::as_object_mut) else {
        return;
    };
    let mut suite = Map::new();
    for key in ["views", "precision", "memory"] {
        // A method's own `views` is a number of them (TPT); the suite's says in words how they are drawn.
        if key == "views" && !settings.get(key).is_some_and(Value::is_string) {
            continue;
        }
        if let Some(value) = settings.remove(key) {
            suite.insert(key.to_owned(), value);
        }
    }
    object.insert("suite_settings".to_owned(), suite.into());
    object.insert("schema".to_owned(), 2.into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_the_suite_leave_those_of_the_method() {
        let mut record = json!({
            "schema": 1,
            "key": "k",
            "settings": {"lr": 0.002, "views": "cached 4", "precision": "float32", "memory": 500_000},
        });
        from_1(&mut record);
        let suite = json!({"views": "cached 4", "precision": "float32", "memory": 500_000});
        assert_eq!(
            record,
            json!({"schema": 2, "key": "k", "settings": {"lr": 0.002}, "suite_settings": suite})
        );
    }

    #[test]
    fn views_of_a_method_stay_its_own() {
        let mut record = json!({"schema": 1, "settings": {"views": 64, "precision": "float32"}});
        from_1(&mut record);
        assert_eq!(record["settings"], json!({"views": 64}));
    }
}
