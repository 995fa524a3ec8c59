//! As JSON, of a version that says what it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Explain, Profile, VERSION};

/// A text that is not a profile or a plan.
#[derive(Debug)]
pub struct FormError(String);

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FormError {}

#[derive(Serialize)]
struct Plan<'a> {
    regatta_explain: u32,
    #[serde(flatten)]
    plan: &'a Explain,
}

#[derive(Deserialize)]
struct Version {
    regatta_profile: u32,
}

impl Profile {
    /// As JSON. Within a version of it fields are only added.
    pub fn to_json(&self) -> String {
        // Its keys are texts and its numbers are numbers: nothing in it cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) of this version has written, or of one before.
    ///
    /// # Errors
    /// It is not a profile, or one of a later version.
    pub fn from_json(text: &str) -> Result<Self, FormError> {
        let not_one = |error: serde_json::Error| FormError(format!("this is not a profile of a query: {error}"));
        if !text.trim_start().starts_with('{') {
            return Err(FormError("this is not a profile of a query: it does not begin with {".to_owned()));
        }
        let Version { regatta_profile } = serde_json::from_str(text).map_err(not_one)?;
        if regatta_profile == 0 || regatta_profile > VERSION {
            let newer = "read it with the build that has written it, or a later one";
            return Err(FormError(format!(
                "this profile has version {regatta_profile}, and this build knows them up to {VERSION}: {newer}"
            )));
        }
        serde_json::from_str(text).map_err(not_one)
    }
}

impl Explain {
    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&Plan { regatta_explain: VERSION, plan: self }).unwrap_or_default()
    }
}
