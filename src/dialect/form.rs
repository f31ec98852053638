//! Keys as MinIO's targets write them: form-urlencoded (Go's `url.QueryEscape`).
//!
//! A space is `+`, everything but `A-Za-z0-9-_.~` is `%XX` of its UTF-8 bytes, the slash too. Plain
//! percent-decoding is not enough (the `+`), and guessing is not possible: `%2F` and `+` are legal in a raw name.
//! So the source says which encoding its way has.

/// Why a text is not form-urlencoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadForm {
    /// A percent sign without two hexadecimal digits behind it.
    #[error("the percent sign at byte {at} is not followed by two hexadecimal digits")]
    Percent {
        /// Where in the encoded text.
        at: usize,
    },
    /// The bytes behind the escapes are no text.
    #[error("the decoded bytes are not UTF-8 from byte {at} on")]
    Utf8 {
        /// Where in the decoded bytes.
        at: usize,
    },
}

/// The text that was encoded. Characters that an encoder would have escaped are taken as they are.
pub(super) fn decode(encoded: &str) -> Result<String, BadForm> {
    let bytes = encoded.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digit = |offset| bytes.get(at + offset).copied().and_then(hexadecimal);
                let (Some(high), Some(low)) = (digit(1), digit(2)) else {
                    return Err(BadForm::Percent { at });
                };
                decoded.push(high << 4 | low);
                at += 2;
            }
            other => decoded.push(other),
        }
        at += 1;
    }
    String::from_utf8(decoded).map_err(|error| BadForm::Utf8 { at: error.utf8_error().valid_up_to() })
}

fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Go's `url.QueryEscape` does.
    fn encode(text: &str) -> String {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                b' ' => "+".to_owned(),
                other => format!("%{other:02X}"),
            })
            .collect()
    }

    #[test]
    fn keys_are_read_as_go_writes_them() {
        let table = [
            ("a%2Fb+c%2Bd.txt", "a/b c+d.txt"),
            ("dir%2F", "dir/"),
            ("%C3%BC%2F%E6%97%A5%E6%9C%AC.txt", "ü/日本.txt"),
            ("100%25.txt", "100%.txt"),
            ("%252F", "%2F"),
            ("%2a%2A", "**"),
            ("", ""),
            // Ceph and AWS leave the slash as it is.
            ("in/a+b", "in/a b"),
        ];
        for (encoded, key) in table {
            assert_eq!(decode(encoded).unwrap(), key, "{encoded}");
        }
    }

    #[test]
    fn broken_escapes_are_refused_with_their_place() {
        for (encoded, at) in [("a%", 1), ("a%4", 1), ("ab%zz", 2), ("%%41", 0), ("%é1", 0)] {
            assert_eq!(decode(encoded), Err(BadForm::Percent { at }), "{encoded}");
        }
        assert_eq!(decode("ab%FF%41"), Err(BadForm::Utf8 { at: 2 }));
        assert_eq!(decode("%E6%97"), Err(BadForm::Utf8 { at: 0 }));
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_form(key in any::<String>()) {
            prop_assert_eq!(decode(&encode(&key)).unwrap(), key);
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text in any::<String>()) {
            let _any: Result<String, BadForm> = decode(&text);
        }
    }
}
