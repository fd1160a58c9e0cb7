//! Generates valid documents with unusual spellings, together with the fields that they select.

use std::fmt::Write;

use apollo_compiler::ast::Type;
use apollo_compiler::schema::{ExtendedType, FieldDefinition, InputValueDefinition};
use apollo_compiler::{Node, Schema};
use serde_json::{Map, Value, json};

const MAX_DEPTH: usize = 3;
const IGNORED: [&str; 9] = [" ", " ", " ", ",", "\n", "\r", "\r\n", "\u{feff}", "#c \"{\n"];
const CHARACTERS: [char; 8] = ['a', '"', '\\', 'é', '\u{1F600}', ' ', '#', '/'];

pub struct Generated {
    pub text: String,
    pub is_plain: bool,
    /// Each field in the order of execution: its response key, arguments and directives.
    pub fields: Vec<Value>,
    /// Name, type and default value of each variable.
    pub variables: Vec<Value>,
}

pub struct Generator<'a> {
    schema: &'a Schema,
    choices: std::vec::IntoIter<u8>,
    /// Without the spellings that async-graphql's own parser does not understand.
    is_plain: bool,
    variables: String,
    fragments: String,
    names: usize,
    generated: Generated,
}

/// A document that depends on these choices alone: fewer choices make a smaller document.
pub fn generate(schema: &Schema, choices: Vec<u8>) -> Generated {
    let generated = Generated { text: String::new(), is_plain: false, fields: Vec::new(), variables: Vec::new() };
    let (choices, (variables, fragments)) = (choices.into_iter(), Default::default());
    let mut generator = Generator { schema, choices, is_plain: false, variables, fragments, names: 0, generated };
    generator.is_plain = generator.one_in(2);
    let (kind, root) = generator.pick(&[("query", "Query"), ("mutation", "Mutation")]);
    let selections = generator.selections(root, MAX_DEPTH);
    let Generator { variables, fragments, mut generated, is_plain, .. } = generator;
    generated.is_plain = is_plain;
    let variables = if variables.is_empty() { variables } else { format!("({variables})") };
    generated.text = format!("{fragments}{kind} Name{variables}{selections}");
    generated
}

impl Generator<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.choices.next().map_or(0, |choice| usize::from(choice) % bound)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// Tokens with ignored tokens between them.
    fn join(&mut self, tokens: &[&str]) -> String {
        let mut text = String::new();
        for token in tokens {
            text += token;
            text += if self.is_plain { " " } else { self.pick(&IGNORED) };
        }
        text
    }

    fn selections(&mut self, ty: &str, depth: usize) -> String {
        let mut text = "{".to_owned();
        for _ in 0..=self.below(3) {
            text += &match self.below(8) {
                6 => {
                    let directives = self.directives("...");
                    let inner = self.selections(ty, depth);
                    let condition = self.pick(&["", "on"]);
                    let on = if condition.is_empty() { "" } else { ty };
                    self.join(&["...", condition, on, &directives, &inner])
                }
                7 => {
                    let name = self.name("f");
                    let inner = self.selections(ty, depth);
                    let fragment = self.join(&["fragment", &name, "on", ty, &inner]);
                    self.fragments += &fragment;
                    self.join(&["...", &name])
                }
                _ => self.field(ty, depth),
            };
        }
        text + "}"
    }

    fn field(&mut self, ty: &str, depth: usize) -> String {
        let schema = self.schema;
        let fields = &schema.get_object(ty).unwrap().fields;
        let is_leaf =
            |field: &FieldDefinition| !matches!(schema.types[field.ty.inner_named_type()], ExtendedType::Object(_));
        let fields: Vec<_> = fields.values().filter(|field| depth > 0 || is_leaf(field)).collect();
        if fields.is_empty() {
            self.generated.fields.push(json!(["__typename", {}]));
            return self.join(&["__typename"]);
        }
        let field = self.pick(&fields);
        let alias = self.name("a");
        let mut values = Map::new();
        let mut arguments = String::new();
        for argument in &field.arguments {
            if argument.is_required() || self.one_in(2) {
                let (text, value) = self.argument(argument);
                arguments += &self.join(&[&argument.name, ":", &text]);
                values.insert(argument.name.to_string(), value);
            }
        }
        if !arguments.is_empty() {
            arguments = self.join(&["(", &arguments, ")"]);
        }
        self.generated.fields.push(json!([alias, values]));
        let directives = self.directives(&alias);
        let inner =
            if is_leaf(field) { String::new() } else { self.selections(field.ty.inner_named_type(), depth - 1) };
        self.join(&[&alias, ":", &field.name, &arguments, &directives, &inner])
    }

    fn directives(&mut self, of: &str) -> String {
        if !self.one_in(6) {
            return String::new();
        }
        let name = self.pick(&["skip", "include"]);
        let (text, value) = self.value(&apollo_compiler::ty!(Boolean!));
        self.generated.fields.push(json!([of, name, value]));
        self.join(&["@", name, "(", "if", ":", &text, ")"])
    }

    /// A literal, or a variable with or without default value.
    fn argument(&mut self, definition: &Node<InputValueDefinition>) -> (String, Value) {
        if !self.one_in(4) {
            return self.value(&definition.ty);
        }
        let name = self.name("v");
        let mut declaration = self.join(&["$", &name, ":"]);
        // async-graphql's own parser allows nothing inside a type.
        let ignored = if self.is_plain { "" } else { self.pick(&IGNORED) };
        declaration +=
            &definition.ty.to_string().replace('[', &format!("[{ignored}")).replace(['!'], &format!("{ignored}!"));
        declaration += " ";
        let mut default = Value::Null;
        if self.one_in(2) {
            let (text, value) = self.value(&definition.ty);
            declaration += &self.join(&["=", &text]);
            default = value;
        }
        self.variables += &declaration;
        self.generated.variables.push(json!([name, definition.ty.to_string(), default]));
        (format!("${name}"), json!({ "variable": name }))
    }

    fn value(&mut self, ty: &Type) -> (String, Value) {
        if !ty.is_non_null() && self.one_in(6) {
            return ("null".into(), Value::Null);
        }
        if ty.is_list() && !self.one_in(4) {
            let items: Vec<_> = (0..self.below(4)).map(|_| self.value(ty.item_type())).collect();
            let texts: Vec<_> = items.iter().map(|(text, _)| text.as_str()).collect();
            let texts = self.join(&texts);
            return (self.join(&["[", &texts, "]"]), items.into_iter().map(|(_, value)| value).collect());
        }
        match &self.schema.types[ty.inner_named_type()] {
            ExtendedType::Enum(enumeration) => {
                let names: Vec<_> = enumeration.values.keys().collect();
                let name = self.pick(&names);
                (name.to_string(), json!(name.as_str()))
            }
            ExtendedType::InputObject(input) => {
                let (mut text, mut object) = (String::new(), Map::new());
                for (name, field) in &input.fields {
                    if field.is_required() || self.one_in(2) {
                        let (field, value) = self.value(&field.ty);
                        text += &self.join(&[name, ":", &field]);
                        object.insert(name.to_string(), value);
                    }
                }
                (self.join(&["{", &text, "}"]), object.into())
            }
            _ => self.scalar(ty.inner_named_type()),
        }
    }

    fn scalar(&mut self, ty: &str) -> (String, Value) {
        let integer = self.pick(&["0", "7", "2147483647", "-2147483648", if self.is_plain { "0" } else { "-0" }]);
        let number = (integer.to_owned(), json!(integer.parse::<i64>().unwrap()));
        match ty {
            "Int" => number,
            "Boolean" => self
                .pick(&[true, false])
                .to_string()
                .parse()
                .map(|value: bool| (value.to_string(), json!(value)))
                .unwrap(),
            "ID" if self.one_in(2) => {
                let unusual = ["-0", "9223372036854775808", "123456789012345678901234567890"];
                let id = if self.is_plain { "1" } else { self.pick(&unusual) };
                (id.to_owned(), json!(id))
            }
            "Date" | "Decimal" => match self.below(4) {
                0 => number,
                1 => ("1.5e3".into(), json!(1500.0)),
                _ => self.string(),
            },
            _ => self.string(),
        }
    }

    fn string(&mut self) -> (String, Value) {
        let value: String = (0..self.below(9)).map(|_| self.pick(&CHARACTERS)).collect();
        if self.is_plain {
            let value = value.replace(['"', '\\'], "-");
            return (format!("\"{value}\""), json!(value));
        }
        if self.one_in(3) {
            // The indentation and the first and last line are not part of the value.
            let value = format!("x{value}x");
            let terminator = self.pick(&["\n", "\r", "\r\n"]);
            let block = format!("{terminator}  {}{terminator} ", value.replace("\"\"\"", "\\\"\"\""));
            return (format!("\"\"\"{block}\"\"\""), json!(value));
        }
        let mut text = "\"".to_owned();
        for character in value.chars() {
            match (self.below(4), character) {
                (0, character) => write!(text, "\\u{{{:X}}}", u32::from(character)).unwrap(),
                (1, character) => {
                    character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| write!(text, "\\u{unit:04x}").unwrap());
                }
                (_, '"' | '\\') => text.extend(['\\', character]),
                (_, character) => text.push(character),
            }
        }
        (text + "\"", json!(value))
    }
}
