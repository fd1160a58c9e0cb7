//! How much the arguments of a field ask for, by the directives of the schema.

use apollo_compiler::ast::{Directive, Type, Value};
use apollo_compiler::executable::Field;
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::{Name, Node, Schema};
use chrono::{Datelike, Months, NaiveDate};

#[derive(Clone, Copy)]
pub struct Sizes<'a> {
    pub schema: &'a Schema,
    /// `None` if they are not known yet. Then each asks for as little as possible.
    pub variables: Option<&'a JsonMap>,
}

impl<'a> Sizes<'a> {
    pub fn variable(self, name: &Name) -> Option<&'a JsonValue> {
        self.variables?.get(name.as_str())
    }

    /// The number of elements in a list with this `@listSize`.
    pub fn of_list(self, field: &Field, directive: &Directive) -> usize {
        let sizes = names(directive, "slicingArguments").filter_map(|name| self.requested(field, name));
        // The resolver rejects a negative size.
        sizes.max().or(integer(directive, "assumedSize")).unwrap_or(1).max(1)
    }

    /// Number of elements that an argument asks for: its value, or its length if it is a list.
    pub fn requested(self, field: &Field, argument: &str) -> Option<usize> {
        let definition = field.definition.argument_by_name(argument)?;
        // A single value may stand for a list of one.
        let is_list = definition.ty.is_list();
        let size = |value: &Node<Value>| match &**value {
            Value::List(list) => Some(list.len()),
            Value::Int(number) if !is_list => number.as_str().parse().ok(),
            Value::Variable(_) if self.variables.is_none() => Some(0),
            Value::Variable(name) => match self.variable(name)? {
                JsonValue::Array(list) => Some(list.len()),
                number if !is_list => number.as_u64()?.try_into().ok(),
                _ => None,
            },
            _ => None,
        };
        field.specified_argument_by_name(argument).and_then(size).or(definition.default_value.as_ref().and_then(size))
    }

    /// The cost of the value of an argument with this `@valueCost`.
    pub fn weight_of_value(self, field: &Field, argument: &str, directive: &Directive) -> usize {
        let divisor = integer(directive, "divisor").unwrap_or(1);
        self.requested(field, argument).and_then(|value| value.checked_div(divisor)).unwrap_or(0)
    }

    /// The cost of the range of days that a field with this `@rangeCost` asks for.
    pub fn weight_of_range(self, field: &Field, directive: &Directive) -> usize {
        let Some((from, to)) = self.range(field, directive) else { return 0 };
        let days = days_between(from, to);
        if integer(directive, "maxDays").is_some_and(|max| days > max) {
            return 0;
        }
        let by_days = integer(directive, "daysPerUnit").and_then(|per_unit| days.checked_div(per_unit)).unwrap_or(0);
        by_days + integer(directive, "periodWeight").map_or(0, |weight| weight * periods(from, to))
    }

    /// The number of points in a field of a report; `None` if it is no list of points.
    pub fn points(self, report: &Field, field: &Field) -> Option<usize> {
        let directive = report.definition.directives.get("rangeCost")?;
        names(directive, "sizedFields").find(|name| field.name == *name)?;
        let Some((from, to)) = self.range(report, directive) else { return Some(1) };
        let default = report.definition.argument_by_name("granularity")?.default_value.as_ref();
        let granularity = report.specified_argument_by_name("granularity").and_then(|value| match &**value {
            Value::Variable(_) if self.variables.is_none() => Some("MONTH"), // the fewest points
            value => self.text(value),
        });
        let months = |day: NaiveDate| 12 * day.year() + day.month0() as i32;
        let points = match granularity.or(default.and_then(|value| self.text(value)))? {
            // A day has 25 hours when daylight saving time ends.
            "HOUR" => 25 * (days_between(from, to) + 1),
            "MONTH" => usize::try_from(months(to) - months(from) + 1).unwrap_or(1),
            _ => days_between(from, to) + 1,
        };
        Some(points.min(integer(directive, "maxElements").unwrap_or(usize::MAX)))
    }

    /// The first and the last day; `None` if the field rejects them.
    fn range(self, field: &Field, directive: &Directive) -> Option<(NaiveDate, NaiveDate)> {
        let day = |end| {
            let argument = directive.specified_argument_by_name(end)?.as_str()?;
            self.text(field.specified_argument_by_name(argument)?)?.parse::<NaiveDate>().ok()
        };
        let (from, to) = (day("from")?, day("to")?);
        (from <= to).then_some((from, to))
    }

    /// A string or the name of an enum value.
    fn text<'v>(self, value: &'v Value) -> Option<&'v str>
    where
        'a: 'v,
    {
        match value {
            Value::Variable(name) => self.variable(name)?.as_str(),
            Value::Enum(name) => Some(name.as_str()),
            value => value.as_str(),
        }
    }

    /// The sum of `@cost` over all fields of input objects in the value of an argument.
    pub fn weight_of_input(self, value: &Value, ty: &Type) -> usize {
        match value {
            Value::List(items) => sum(items.iter().map(|item| self.weight_of_input(item, ty))),
            Value::Object(fields) => sum(fields.iter().filter_map(|(name, value)| {
                let (weight, ty) = self.input_field(ty, name)?;
                Some(weight.saturating_add(self.weight_of_input(value, ty)))
            })),
            Value::Variable(name) => self.variable(name).map_or(0, |value| self.weight_of_json(value, ty)),
            _ => 0,
        }
    }

    fn weight_of_json(self, value: &JsonValue, ty: &Type) -> usize {
        match value {
            JsonValue::Array(items) => sum(items.iter().map(|item| self.weight_of_json(item, ty))),
            JsonValue::Object(fields) => sum(fields.iter().filter_map(|(name, value)| {
                let (weight, ty) = self.input_field(ty, name.as_str())?;
                Some(weight.saturating_add(self.weight_of_json(value, ty)))
            })),
            _ => 0,
        }
    }

    /// The `@cost` and the type of a field of an input object, or of a list of them.
    fn input_field(self, ty: &Type, name: &str) -> Option<(usize, &'a Type)> {
        let field = self.schema.get_input_object(ty.inner_named_type())?.fields.get(name)?;
        Some((field.directives.get("cost").and_then(|directive| weight(directive)).unwrap_or(0), &field.ty))
    }
}

fn sum(weights: impl Iterator<Item = usize>) -> usize {
    weights.fold(0, usize::saturating_add)
}

fn days_between(from: NaiveDate, to: NaiveDate) -> usize {
    usize::try_from((to - from).num_days()).unwrap_or(0)
}

/// Whole calendar months, and days outside of these, from the first day to the last, both included.
fn periods(from: NaiveDate, to: NaiveDate) -> usize {
    let next = |first: &NaiveDate| {
        let next_month = first.checked_add_months(Months::new(1)).filter(|_| first.day() == 1);
        next_month.filter(|next| next.pred_opt().is_some_and(|last| last <= to)).or(first.succ_opt())
    };
    std::iter::successors(Some(from), next).take_while(|first| *first <= to).count()
}

pub fn weight(directive: &Directive) -> Option<usize> {
    directive.specified_argument_by_name("weight")?.as_str()?.parse().ok()
}

pub fn integer(directive: &Directive, argument: &str) -> Option<usize> {
    directive.specified_argument_by_name(argument)?.to_i32()?.try_into().ok()
}

pub fn names<'a>(directive: &'a Directive, argument: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let names = directive.specified_argument_by_name(argument).and_then(|names| names.as_list());
    names.unwrap_or_default().iter().filter_map(|name| name.as_str())
}
