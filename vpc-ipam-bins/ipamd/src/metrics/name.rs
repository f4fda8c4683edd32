use serde::Serialize;
use serde_json::Value;

/// Returns the name of an enum's variant as labels have it: the one in journals and in JSON, in lower case with underscores, so that
/// all three tell a thing by one name.
pub(super) fn variant(value: &impl Serialize) -> String {
    let name = match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(fields)) => fields.into_iter().next().map_or_else(String::new, |it| it.0),
        Ok(_) | Err(_) => String::new(),
    };
    let mut label = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_uppercase() && !label.is_empty() {
            label.push('_');
        }
        label.extend(letter.to_lowercase());
    }
    label
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{Because, Card, Source, Wanted};

    use super::*;

    #[test]
    fn a_variant_is_called_as_in_a_journal() {
        let cases = [
            (variant(&Because::Start), "start"),
            (variant(&Because::Audit(Source::Ec2)), "audit"),
            (variant(&Because::NoEniOnCard { card: Card(0) }), "no_eni_on_card"),
            (variant(&Wanted::Addresses { card: Card(1) }), "addresses"),
            (variant(&7), ""),
        ];
        for (name, expected) in cases {
            assert_eq!(name, expected);
        }
    }
}
