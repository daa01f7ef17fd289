//! A picture as JSON, the same on the command line and on the search page.

use ocelli_index::{Details, Picture};
use serde_json::{Value, json};

use crate::Found;

/// The first of the picture's files.
pub fn path_of(picture: &Picture) -> String {
    picture.files.first().map_or_else(|| "(file is gone)".to_owned(), |path| path.display().to_string())
}

/// A picture that was found: [`picture_object`] with `score` and `similarity`.
pub fn found_object(found: &Found) -> Value {
    let mut object = picture_object(&found.picture);
    object["score"] = json!(found.score);
    object["similarity"] = json!(found.similarity);
    object
}

/// What is known of a picture: `id`, `path`, `files`, `width`, `height`, `captured_at`, `camera` and `gps`, as
/// `[latitude, longitude]`; `null` where it is not known.
pub fn picture_object(picture: &Picture) -> Value {
    let details = &picture.details;
    let files: Vec<String> = picture.files.iter().map(|path| path.display().to_string()).collect();
    json!({
        "id": picture.id,
        "path": path_of(picture),
        "files": files,
        "width": details.width,
        "height": details.height,
        "captured_at": when(details),
        "camera": camera(details),
        "gps": details.gps.map(|(latitude, longitude)| [latitude, longitude]),
    })
}

/// The camera's clock, as `2024-05-17 18:30:00`.
pub fn when(details: &Details) -> Option<String> {
    let offset = i64::from(details.offset_minutes.unwrap_or(0)) * 60;
    Some(date_time(details.captured_at?.saturating_add(offset)))
}

/// Maker and model; many models begin with their maker's name.
pub fn camera(details: &Details) -> Option<String> {
    match (&details.camera_make, &details.camera_model) {
        (Some(make), Some(model)) if model.starts_with(make.as_str()) => Some(model.clone()),
        (Some(make), Some(model)) => Some(format!("{make} {model}")),
        (make, model) => make.clone().or_else(|| model.clone()),
    }
}

/// Seconds since 1970 as `2024-05-17 18:30:00` (Hinnant, "chrono-compatible low-level date algorithms").
pub fn date_time(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_calendars_do() {
        // Python: datetime.fromtimestamp(t, UTC)
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (-1, "1969-12-31 23:59:59"),
            (4_102_444_800, "2100-01-01 00:00:00"),
        ] {
            assert_eq!(date_time(seconds), text);
        }
    }

    #[test]
    fn a_maker_is_not_named_twice() {
        let of = |make: &str, model: &str| {
            camera(&Details {
                camera_make: Some(make.into()),
                camera_model: Some(model.into()),
                ..Details::default()
            })
        };
        assert_eq!(of("Canon", "Canon EOS R5").unwrap(), "Canon EOS R5");
        assert_eq!(of("Apple", "iPhone 15").unwrap(), "Apple iPhone 15");
    }
}
