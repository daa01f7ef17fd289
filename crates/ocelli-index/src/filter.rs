//! Limits on what a search looks at: when, where, with which camera, in which folder.

use rusqlite::params_from_iter;
use rusqlite::types::Value;

use crate::store::Index;
use crate::{IndexError, Result};

/// Mean radius of the Earth.
const EARTH_KM: f64 = 6371.0088;
const KM_PER_DEGREE: f64 = EARTH_KM * std::f64::consts::PI / 180.0;
const DAY: i64 = 86_400;

/// Which pictures count; all of it must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Taken at this time or later, in seconds since 1970 on the camera's clock.
    pub since: Option<i64>,
    /// Taken before this time.
    pub until: Option<i64>,
    /// Taken within a circle.
    pub near: Option<Near>,
    /// In the camera's maker or model, in any case.
    pub camera: Option<String>,
    /// In the file's path in any case, or a pattern with `*`, `?` and `[abc]` for all of it.
    pub path: Option<String>,
}

/// A circle on the Earth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// In degrees, north positive.
    pub latitude: f64,
    /// In degrees, east positive.
    pub longitude: f64,
    /// Its radius.
    pub km: f64,
}

impl std::str::FromStr for Near {
    type Err = IndexError;

    /// Reads `LAT,LON,KM`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || IndexError::Filter(format!("`{text}` is not LATITUDE,LONGITUDE,KM as in 48.14,11.58,5"));
        let numbers: Vec<f64> = text
            .split(',')
            .map(|n| n.trim().parse())
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| wrong())?;
        let [latitude, longitude, km] = numbers[..] else { return Err(wrong()) };
        let fits = latitude.abs() <= 90.0 && longitude.abs() <= 180.0 && km > 0.0 && km.is_finite();
        if fits { Ok(Self { latitude, longitude, km }) } else { Err(wrong()) }
    }
}

impl Filter {
    /// Whether every picture counts.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Index {
    /// Ids of the pictures that count, ascending.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn select(&self, filter: &Filter) -> Result<Vec<i64>> {
        let (condition, values) = condition(filter);
        let sql = format!("SELECT id, latitude, longitude FROM pictures WHERE {condition} ORDER BY id");
        let mut query = self.db.prepare(&sql)?;
        let rows = query.query_map(params_from_iter(values), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<f64>>(1)?, row.get::<_, Option<f64>>(2)?))
        })?;
        let mut ids = Vec::new();
        for row in rows {
            let (id, latitude, longitude) = row?;
            let inside =
                |near: Near| latitude.zip(longitude).is_some_and(|(a, b)| distance_km(near, a, b) <= near.km);
            if filter.near.is_none_or(inside) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

fn condition(filter: &Filter) -> (String, Vec<Value>) {
    let mut parts = vec!["1".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut add = |part: &str, value: Value| {
        values.push(value);
        parts.push(part.replace('?', &format!("?{}", values.len())));
    };
    let clock = "captured_at + 60 * ifnull(offset_minutes, 0)";
    if let Some(since) = filter.since {
        add(&format!("{clock} >= ?"), since.into());
    }
    if let Some(until) = filter.until {
        add(&format!("{clock} < ?"), until.into());
    }
    if let Some(near) = filter.near {
        // A band of latitudes; the circle is tested row by row.
        let degrees = near.km / KM_PER_DEGREE + 1e-6;
        add("latitude >= ?", (near.latitude - degrees).into());
        add("latitude <= ?", (near.latitude + degrees).into());
    }
    if let Some(camera) = &filter.camera {
        let name = "lower(ifnull(camera_make, '') || ' ' || ifnull(camera_model, ''))";
        add(&format!("instr({name}, ?) > 0"), camera.to_lowercase().into());
    }
    if let Some(path) = &filter.path {
        let matches = if path.contains(['*', '?', '[']) {
            "CAST(path AS TEXT) GLOB @"
        } else {
            "instr(lower(CAST(path AS TEXT)), lower(@)) > 0"
        };
        let sql = format!("id IN (SELECT picture FROM files WHERE {matches})");
        add(&sql.replace('@', "?"), path.clone().into());
    }
    (parts.join(" AND "), values)
}

/// Great-circle distance (haversine).
fn distance_km(near: Near, latitude: f64, longitude: f64) -> f64 {
    let (a, b) = (near.latitude.to_radians(), latitude.to_radians());
    let half = |from: f64, to: f64| ((to - from) / 2.0).sin().powi(2);
    let h = half(a, b) + a.cos() * b.cos() * half(near.longitude.to_radians(), longitude.to_radians());
    2.0 * EARTH_KM * h.sqrt().min(1.0).asin()
}

/// Reads `2024`, `2024-05`, `2024-05-17` or `2024-05-17T18:30` as the time where it begins and the time where
/// it is over, in seconds since 1970 on a clock without zone.
///
/// # Errors
/// When `text` is no such time.
pub fn parse_date(text: &str) -> Result<(i64, i64)> {
    let wrong = || {
        IndexError::Filter(format!(
            "`{text}` is no date: write 2024, 2024-05, 2024-05-17 or 2024-05-17T18:30"
        ))
    };
    let (date, time) = text.split_once(['T', ' ']).map_or((text, None), |(date, time)| (date, Some(time)));
    let digits = |text: &str, range: std::ops::RangeInclusive<i64>| {
        let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
        let number = if plain { text.parse().ok() } else { None };
        number.filter(|number| range.contains(number)).ok_or_else(wrong)
    };
    let mut parts = date.split('-');
    let year = digits(parts.next().unwrap_or_default(), 1..=9999)?;
    let month = parts.next().map(|month| digits(month, 1..=12)).transpose()?;
    let day = parts.next().map(|day| digits(day, 1..=31)).transpose()?;
    if parts.next().is_some() || (time.is_some() && day.is_none()) {
        return Err(wrong());
    }
    let first = days_since_1970(year, month.unwrap_or(1), 1);
    let next_month = |month: i64| days_since_1970(year + month / 12, month % 12 + 1, 1);
    let (begin, end) = match (month, day) {
        (None, _) => (first, days_since_1970(year + 1, 1, 1)),
        (Some(month), None) => (first, next_month(month)),
        (Some(month), Some(day)) => {
            let begin = first + day - 1;
            if begin >= next_month(month) {
                return Err(wrong());
            }
            (begin, begin + 1)
        }
    };
    let Some(time) = time else { return Ok((begin * DAY, end * DAY)) };
    let (hour, minute) = time.split_once(':').ok_or_else(wrong)?;
    let at = begin * DAY + digits(hour, 0..=23)? * 3600 + digits(minute, 0..=59)? * 60;
    Ok((at, at + 60))
}

/// Days from 1970-01-01 in the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_begin_and_end() {
        assert_eq!(parse_date("1970").unwrap(), (0, 365 * DAY));
        // Python: calendar.timegm
        assert_eq!(parse_date("2024-02").unwrap(), (1_706_745_600, 1_709_251_200));
        assert_eq!(parse_date("2024-02-29").unwrap(), (1_709_164_800, 1_709_251_200));
        assert_eq!(parse_date("2023-12").unwrap().1, parse_date("2024").unwrap().0);
        assert_eq!(parse_date("2024-02-29T23:59").unwrap(), (1_709_251_140, 1_709_251_200));
        for wrong in
            ["", "24-1-1-1", "2023-02-29", "2023-13", "2024-04-31", "x", "2024-01T10:00", "2024-1-1T25:00"]
        {
            assert!(parse_date(wrong).unwrap_err().to_string().contains("no date"), "{wrong}");
        }
    }

    #[test]
    fn circles_are_read_and_measured() {
        let munich: Near = "48.137, 11.575, 500".parse().unwrap();
        // Berlin; 504 km by road maps' great circle.
        assert!((distance_km(munich, 52.52, 13.405) - 504.0).abs() < 2.0);
        let fiji = Near { latitude: -17.0, longitude: 179.9, km: 50.0 };
        assert!(distance_km(fiji, -17.0, -179.9) < 25.0);
        for wrong in ["", "1,2", "91,0,1", "0,181,1", "0,0,0", "0,0,nan", "a,b,c", "0,0,1,1"] {
            assert!(wrong.parse::<Near>().is_err(), "{wrong}");
        }
    }
}
