//! Directives that state in the schema what its fields cost and how large they can be.
//! [`edge::documents::cost`](crate::edge::documents::cost) reads them.
//! `@cost` and `@listSize` are those of <https://ibm.github.io/graphql-specs/cost-spec.html>.

use async_graphql::TypeDirective;

/// The cost of a field without its selection (1 if not stated), or the cost that an argument or a field of an input object adds
/// to the field with this argument. Each element of an argument that is a list adds it. A whole number.
#[TypeDirective(location = "ArgumentDefinition", location = "FieldDefinition", location = "InputFieldDefinition")]
pub fn cost(weight: String) {}

/// The value of an argument of type `Int` adds 1 to the cost of its field for each `divisor`.
#[TypeDirective(name = "valueCost", location = "ArgumentDefinition")]
pub fn value_cost(divisor: i32) {}

/// The number of elements in a list: the largest of the slicing arguments (the value of a number, the length of a list), or else
/// the assumed size. With `sizedFields` it applies to the lists in the object that the field returns. A list without this
/// directive counts as 10 elements.
#[TypeDirective(name = "listSize", location = "FieldDefinition")]
pub fn list_size(
    assumed_size: Option<i32>,
    slicing_arguments: Option<Vec<String>>,
    sized_fields: Option<Vec<String>>,
    #[graphql(default_with = "Some(true)")] require_one_slicing_argument: Option<bool>,
) {
}

/// The cost of the time between two arguments of type `Date`: 1 for each `daysPerUnit` days, plus `periodWeight` for each whole
/// calendar month and for each other day. A range of more than `maxDays` days adds nothing: the field rejects it. The lists
/// `sizedFields` in the object that the field returns have one element for each hour, day or month, as the argument `granularity`
/// says, and at most `maxElements`. Ten of these elements cost as much as one of another list.
#[TypeDirective(name = "rangeCost", location = "FieldDefinition")]
pub fn range_cost(
    from: String,
    to: String,
    days_per_unit: Option<i32>,
    period_weight: Option<i32>,
    max_days: Option<i32>,
    sized_fields: Option<Vec<String>>,
    max_elements: Option<i32>,
) {
}

/// The largest size of a field in a response: the bytes of a string with its quotation marks, and the elements of a list. It
/// limits the response and does not change the cost. Other strings have at most 200 characters.
#[TypeDirective(name = "maxSize", location = "FieldDefinition")]
pub fn max_size(bytes: Option<i32>, elements: Option<i32>) {}

/// Names of arguments or fields.
pub fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}
