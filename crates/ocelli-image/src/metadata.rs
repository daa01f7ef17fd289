//! What a photo's file says about it: when, with which camera, where, and how large it is.
//!
//! EXIF (CIPA DC-008, "Exif 2.32") is read from JPEG, PNG, WebP, TIFF, HEIC and the raw formats that are
//! TIFF. Broken metadata are no metadata: nothing here fails.

use std::io::Cursor;

use exif::{Exif, Field, In, Reader, Tag, Value};

use crate::{decode, raw_preview};

/// A photo's metadata; what the file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhotoMetadata {
    /// When the picture was taken.
    pub captured_at: Option<CapturedAt>,
    /// The camera's maker, as in "Canon".
    pub camera_make: Option<String>,
    /// The camera's model, as in "Canon EOS R5".
    pub camera_model: Option<String>,
    /// Columns as stored, before the picture is turned upright.
    pub width: Option<u32>,
    /// Rows as stored, before the picture is turned upright.
    pub height: Option<u32>,
    /// EXIF orientation, 1 to 8.
    pub orientation: Option<u8>,
    /// Latitude (north is positive, -90 to 90) and longitude (east is positive, -180 to 180) in degrees.
    pub gps: Option<(f64, f64)>,
}

/// A moment as cameras note it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedAt {
    /// Seconds since 1970-01-01 00:00 UTC. Without an offset, the camera's clock is taken for UTC.
    pub unix_seconds: i64,
    /// What the camera's clock was ahead of UTC, in minutes, where the file says so.
    pub offset_minutes: Option<i32>,
}

impl PhotoMetadata {
    /// Returns what `bytes`, a whole image file, say. Bytes that are no image say nothing.
    pub fn read(bytes: &[u8]) -> Self {
        let mut found = read_exif(bytes).map_or_else(Self::default, |exif| Self::from_exif(&exif));
        let size = match raw_preview(bytes) {
            Some(preview) => Some((preview.width, preview.height)),
            None => decode::size(bytes),
        };
        if let Some((width, height)) = size {
            (found.width, found.height) = (Some(width), Some(height));
        }
        found
    }

    fn from_exif(exif: &Exif) -> Self {
        let field = |tag| exif.get_field(tag, In::PRIMARY);
        let number = |tag| field(tag).and_then(|field| field.value.get_uint(0));
        let orientation = number(Tag::Orientation).and_then(|value| u8::try_from(value).ok());
        Self {
            captured_at: captured_at(&field),
            camera_make: field(Tag::Make).and_then(text),
            camera_model: field(Tag::Model).and_then(text),
            width: number(Tag::PixelXDimension).filter(|width| *width > 0),
            height: number(Tag::PixelYDimension).filter(|height| *height > 0),
            orientation: orientation.filter(|value| (1..=8).contains(value)),
            gps: position(&field),
        }
    }
}

/// Reads as much of the EXIF block as is well-formed.
fn read_exif(bytes: &[u8]) -> Option<Exif> {
    let mut reader = Reader::new();
    reader.continue_on_error(true);
    match reader.read_from_container(&mut Cursor::new(bytes)) {
        Ok(exif) => Some(exif),
        Err(exif::Error::PartialResult(partial)) => Some(partial.into_inner().0),
        Err(_) => None,
    }
}

/// The first moment that is one, with the offset that belongs to it.
fn captured_at<'a>(field: &impl Fn(Tag) -> Option<&'a Field>) -> Option<CapturedAt> {
    let tags = [
        (Tag::DateTimeOriginal, Tag::OffsetTimeOriginal),
        (Tag::DateTimeDigitized, Tag::OffsetTimeDigitized),
        (Tag::DateTime, Tag::OffsetTime),
    ];
    tags.into_iter().find_map(|(moment, offset)| {
        let clock = clock_seconds(&text(field(moment)?)?)?;
        let offset_minutes = field(offset).and_then(text).and_then(|offset| offset_minutes(&offset));
        let unix_seconds = clock - i64::from(offset_minutes.unwrap_or(0)) * 60;
        Some(CapturedAt { unix_seconds, offset_minutes })
    })
}

/// The first string of a field, without padding; `None` for an empty one.
fn text(field: &Field) -> Option<String> {
    let Value::Ascii(strings) = &field.value else { return None };
    let text = String::from_utf8_lossy(strings.first()?);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads `2024:02:29 23:59:58` as seconds since 1970 on a clock without zone.
fn clock_seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    // Some programs write dashes in the date, or a T before the time.
    let shape = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|byte| allowed.contains(byte));
    if !(shape(4, b":-/") && shape(7, b":-/") && shape(10, b" T") && shape(13, b":") && shape(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(bytes, 0, 4)?, number(bytes, 5, 2)?, number(bytes, 8, 2)?);
    let (hour, minute, second) = (number(bytes, 11, 2)?, number(bytes, 14, 2)?, number(bytes, 17, 2)?);
    let leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month - 1).ok()?)?;
    if year == 0 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days in the Gregorian calendar, counted in years that begin in March so that the leap day is last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // The months from March on have 31, 30, 31, 30, 31 days, and so on: 153 in five.
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    const TO_1970_03_01: i64 = 719_468;
    year * 365 + leap_days + day_of_year - TO_1970_03_01
}

/// Reads `+02:00` or `-0330` as minutes.
fn offset_minutes(text: &str) -> Option<i32> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        b'Z' if text.len() == 1 => return Some(0),
        _ => return None,
    };
    let digits: Vec<u8> = text[1..].bytes().filter(|byte| *byte != b':').collect();
    let (hours, minutes) = (number(&digits, 0, 2)?, number(&digits, 2, 2)?);
    (digits.len() == 4 && hours <= 15 && minutes <= 59).then_some(sign * (hours * 60 + minutes) as i32)
}

/// The decimal number of `count` digits at `at`.
fn number(bytes: &[u8], at: usize, count: usize) -> Option<i64> {
    let digits = bytes.get(at..at + count)?;
    let all = digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

/// Latitude and longitude. Exactly (0, 0) is what cameras without a fix write, so it is no position.
fn position<'a>(field: &impl Fn(Tag) -> Option<&'a Field>) -> Option<(f64, f64)> {
    let degrees = |value, direction, negative: &str, limit: f64| {
        let Value::Rational(parts) = &field(value)?.value else { return None };
        let part = |i: usize| parts.get(i).map_or(0.0, |part| part.to_f64());
        let degrees = part(0) + part(1) / 60.0 + part(2) / 3600.0;
        let direction = field(direction).and_then(text).unwrap_or_default();
        let sign = if direction.eq_ignore_ascii_case(negative) { -1.0 } else { 1.0 };
        // A fraction over zero is not a number, or infinite.
        (!parts.is_empty() && degrees.is_finite() && degrees <= limit).then_some(sign * degrees)
    };
    let latitude = degrees(Tag::GPSLatitude, Tag::GPSLatitudeRef, "S", 90.0)?;
    let longitude = degrees(Tag::GPSLongitude, Tag::GPSLongitudeRef, "W", 180.0)?;
    (latitude != 0.0 || longitude != 0.0).then_some((latitude, longitude))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_moments_and_refuses_impossible_ones() {
        assert_eq!(clock_seconds("1970:01:01 00:00:00"), Some(0));
        assert_eq!(clock_seconds("2000:02:29 12:34:56"), Some(951_827_696));
        assert_eq!(clock_seconds("2024-03-01T00:00:00"), Some(1_709_251_200));
        assert_eq!(clock_seconds("1969:12:31 23:59:59"), Some(-1));
        for text in
            ["0000:00:00 00:00:00", "    :  :     :  :  ", "2023:02:29 00:00:00", "2023:13:01 00:00:00", ""]
        {
            assert_eq!(clock_seconds(text), None, "{text:?}");
        }
    }

    #[test]
    fn reads_offsets() {
        for (text, expected) in [
            ("+02:00", Some(120)),
            ("-03:30", Some(-210)),
            ("Z", Some(0)),
            ("+2", None),
            ("   :  ", None),
            ("é", None),
        ] {
            assert_eq!(offset_minutes(text), expected, "{text:?}");
        }
    }
}
