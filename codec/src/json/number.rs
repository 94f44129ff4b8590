//! Numbers as canonical JSON and, for room versions 1 to 5, as Python writes them.

use std::fmt::Write;

/// Appends an integer.
pub(crate) fn write_int(int: i64, out: &mut String) {
    // Writing to a string does not fail.
    let _ = write!(out, "{int}");
}

/// Appends a finite float as Python's `repr` does: the shortest digits that give the float again, with an exponent
/// where the decimal point would stand more than 16 digits to the right or 4 zeros to the left.
pub(crate) fn write_float(float: f64, out: &mut String) {
    // Rust's digits are the shortest too; only the layout differs.
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    out.push_str(sign);
    match exponent {
        -4..=-1 => {
            out.push_str("0.");
            (exponent..-1).for_each(|_| out.push('0'));
            out.push_str(&digits);
        }
        0..=15 => {
            // In range: the exponent is checked by the arm.
            let whole = exponent.unsigned_abs() as usize + 1;
            if digits.len() <= whole {
                out.push_str(&digits);
                (digits.len()..whole).for_each(|_| out.push('0'));
                out.push_str(".0");
            } else {
                out.push_str(&digits[..whole]);
                out.push('.');
                out.push_str(&digits[whole..]);
            }
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            out.push_str(first);
            if !rest.is_empty() {
                out.push('.');
                out.push_str(rest);
            }
            let sign = if exponent < 0 { '-' } else { '+' };
            let _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_pythons_repr_does() {
        // The expectations were printed by Python 3.11.
        for (float, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (10.7, "10.7"),
            (-10.7, "-10.7"),
            (100.0, "100.0"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.000123, "0.000123"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (1234567890123456.0, "1234567890123456.0"),
            (9007199254740993.0, "9007199254740992.0"),
            (1e16, "1e+16"),
            (1.25e16, "1.25e+16"),
            (1e22, "1e+22"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (2.2250738585072014e-308, "2.2250738585072014e-308"),
        ] {
            let mut out = String::new();
            write_float(float, &mut out);
            assert_eq!(out, expected);
        }
    }
}
