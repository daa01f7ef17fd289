//! What is printed in text scenes: common words of two to seven letters.
//!
//! Articles, number words, "yes" and "no" are left out: answers are judged without articles, and with number words
//! as digits.

/// In no order that matters; new ones go to the end of their length.
#[rustfmt::skip]
pub(crate) const WORDS: [&[&str]; 6] = [
    &["go", "up", "on", "in", "at", "by", "my", "we", "me", "so", "do", "he", "it", "is", "us", "to", "of",
      "or", "hi", "ok", "if", "as", "be", "am", "tv", "pc", "uk", "eu"],
    &["cat", "dog", "sun", "car", "bus", "box", "key", "map", "cup", "hat", "pen", "red", "sky", "sea", "air",
      "tea", "egg", "ice", "pie", "jam", "bar", "gym", "zoo", "spa", "art", "toy", "pet", "bed", "bag", "fun",
      "new", "hot", "big", "old", "low", "top", "off", "out", "end", "day", "eat", "run", "buy", "win", "fly",
      "mix", "gas", "oil", "log", "web", "app", "job", "law", "tax", "fix", "use", "wax"],
    &["blue", "exit", "stop", "open", "sale", "push", "pull", "taxi", "food", "park", "bank", "shop", "cafe",
      "milk", "book", "door", "gate", "home", "road", "west", "east", "town", "city", "play", "game", "star",
      "moon", "fish", "bird", "tree", "gold", "free", "slow", "fast", "walk", "wait", "help", "love", "hope",
      "time", "year", "rain", "snow", "wind", "fire", "lake", "hill", "ship", "boat", "bike", "golf", "jazz",
      "pool", "yoga", "soup", "cake", "rice", "salt", "wool", "silk", "mail", "work", "quiz", "view", "king"],
    &["house", "hotel", "pizza", "green", "black", "white", "brown", "water", "bread", "fruit", "apple",
      "lemon", "juice", "sugar", "honey", "music", "radio", "movie", "phone", "paper", "river", "beach",
      "ocean", "stone", "cloud", "storm", "light", "night", "today", "hello", "world", "happy", "smile",
      "dream", "peace", "power", "speed", "quiet", "enter", "start", "press", "price", "money", "store",
      "salon", "plant", "tools", "shoes", "dress", "train", "truck", "plane", "metro", "north", "south",
      "right", "fresh", "clean", "sport", "video", "photo", "zebra", "horse", "tiger", "eagle", "queen",
      "chess", "judge", "extra"],
    &["coffee", "garden", "museum", "school", "street", "bridge", "market", "bakery", "office", "window",
      "orange", "purple", "yellow", "silver", "winter", "summer", "spring", "autumn", "sunday", "monday",
      "friday", "danger", "closed", "ticket", "travel", "flight", "subway", "castle", "church", "forest",
      "island", "desert", "flower", "butter", "cheese", "cookie", "tomato", "carrot", "pepper", "banana",
      "animal", "rabbit", "monkey", "turtle", "rocket", "planet", "camera", "guitar", "violin", "soccer",
      "tennis", "hockey", "doctor", "police", "family", "friend", "people", "simple", "strong", "bright",
      "future", "energy", "system", "number", "letter", "jacket"],
    &["welcome", "parking", "station", "airport", "library", "kitchen", "weather", "morning", "evening",
      "holiday", "tuesday", "october", "picture", "camping", "fishing", "cooking", "reading", "walking",
      "running", "science", "history", "english", "teacher", "student", "company", "factory", "machine",
      "battery", "channel", "concert", "theater", "chicken", "avocado", "spinach", "vitamin", "blanket",
      "curtain", "bicycle", "freedom", "justice", "journey", "natural", "perfect", "quality", "special",
      "private", "caution", "warning", "express", "village"],
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Answer;

    #[test]
    fn words_have_their_length_and_are_told_apart() {
        for (at, words) in WORDS.iter().enumerate() {
            for (i, word) in words.iter().enumerate() {
                assert_eq!(word.len(), at + 2, "{word}");
                assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
                for other in &words[..i] {
                    assert!(!Answer::new(*word).matches(other), "{word} and {other}");
                }
            }
        }
    }
}
