//! User-supplied regular expressions that match whole values. The memory of each is known and bounded: `\w{205}`
//! alone takes megabytes, and the operator reads what every team writes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex_automata::meta::{Config, Regex};
use regex_automata::nfa::thompson::WhichCaptures;

/// The maximum size of one compiled expression.
pub const EXPRESSION_MAX_BYTES: usize = 2 << 20;
/// The maximum size of all compiled expressions of one object.
pub const OBJECT_EXPRESSIONS_MAX_BYTES: usize = 2 * EXPRESSION_MAX_BYTES;
/// The maximum size of all compiled expressions of one kind of object in a namespace.
pub const NAMESPACE_EXPRESSIONS_MAX_BYTES: usize = 8 * EXPRESSION_MAX_BYTES;
/// The maximum size of the cache that shares compiled expressions with the same text.
const CACHE_MAX_BYTES: usize = 64 << 20;

/// A compiled regular expression that matches a whole value. A copy shares the compiled form, and so do
/// expressions with the same text.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

struct Compiled {
    /// The expression as the user wrote it.
    text: String,
    regex: Regex,
    bytes: usize,
}

/// Why an expression is refused.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    /// Its compiled form would take more than [`EXPRESSION_MAX_BYTES`].
    #[error(
        "it takes more than {} KiB when it is compiled: repeat less, or [A-Za-z0-9_] in place of \\w",
        EXPRESSION_MAX_BYTES >> 10
    )]
    TooLarge,
    /// It is no valid regular expression: the parser's explanation, in one line.
    #[error("{0}")]
    Syntax(String),
}

impl Expression {
    /// Matches the whole value: an unanchored expression would accept `xteam-a` for `team-a`.
    ///
    /// # Errors
    ///
    /// [`ExpressionError::Syntax`] if the text is no regular expression, [`ExpressionError::TooLarge`] if its
    /// compiled form takes more than [`EXPRESSION_MAX_BYTES`].
    pub fn whole(text: &str) -> Result<Self, ExpressionError> {
        static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
        if let Some(known) = lock(&CACHE).expressions.get(text) {
            return known.clone().ok_or(ExpressionError::TooLarge);
        }
        let expression = match compiled(text) {
            Ok(regex) if regex.memory_usage() <= EXPRESSION_MAX_BYTES => {
                let bytes = regex.memory_usage();
                Some(Self(Arc::new(Compiled { text: text.to_owned(), regex, bytes })))
            }
            Ok(_) | Err(ExpressionError::TooLarge) => None,
            Err(error) => return Err(error),
        };
        lock(&CACHE).keep(text, expression.as_ref());
        expression.ok_or(ExpressionError::TooLarge)
    }

    /// Whether the expression matches the value from its first to its last character.
    pub fn is_match(&self, value: &str) -> bool {
        self.0.regex.is_match(value)
    }

    /// The expression as the user wrote it, without the anchors that are added to it.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The memory that the compiled expression takes.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }
}

fn compiled(text: &str) -> Result<Regex, ExpressionError> {
    // Without the lazy DFA, whose cache would exist per thread and expression, and without capture groups, which
    // are unused and take memory in each thread that searches.
    let config = Config::new()
        .nfa_size_limit(Some(EXPRESSION_MAX_BYTES))
        .dfa(false)
        .hybrid(false)
        .which_captures(WhichCaptures::None);
    // By itself first: within the anchors `a|)(` would be valid, and would not be anchored.
    regex_automata::util::syntax::parse(text).map_err(|error| ExpressionError::Syntax(last_line(&error)))?;
    Regex::builder().configure(config).build(&format!("^(?:{text})$")).map_err(|error| match error.size_limit() {
        Some(_) => ExpressionError::TooLarge,
        None => ExpressionError::Syntax(error.syntax_error().map_or_else(|| last_line(&error), |e| last_line(e))),
    })
}

/// The parser prints the expression with markers first; the last line contains the error.
fn last_line(error: &dyn fmt::Display) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.0.text)
    }
}

#[derive(Default)]
struct Cache {
    /// `None`: the expression is too large, which is known only by compiling it.
    expressions: HashMap<String, Option<Expression>>,
    bytes: usize,
}

impl Cache {
    fn keep(&mut self, text: &str, expression: Option<&Expression>) {
        let bytes = text.len() + expression.map_or(0, Expression::bytes);
        if self.bytes + bytes > CACHE_MAX_BYTES {
            // Expressions in use are kept alive by their users.
            *self = Self::default();
        }
        self.bytes += bytes;
        self.expressions.insert(text.to_owned(), expression.cloned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_of_the_whole_value_and_what_is_too_large_is_refused() {
        let team = Expression::whole("team-[a-z]+|ops").unwrap();
        assert!(team.is_match("team-a") && team.is_match("ops"));
        assert!(!team.is_match("xteam-a") && !team.is_match("team-a1") && !team.is_match("devops"));
        assert_eq!(team.as_str(), "team-[a-z]+|ops");
        assert!(Expression::whole(r"\w{1,63}").is_ok(), "what people write");
        for large in [r"\w{205}", "(((a{100}){100}){100})", r"\p{L}{500}"] {
            assert!(matches!(Expression::whole(large), Err(ExpressionError::TooLarge)), "{large}");
        }
        let syntax = Expression::whole("a(").unwrap_err().to_string();
        assert!(syntax.contains("unclosed group"), "{syntax}");
        for unbalanced in ["a|)(", "x|)(.*", ")("] {
            let refused = Expression::whole(unbalanced);
            assert!(matches!(refused, Err(ExpressionError::Syntax(_))), "{unbalanced} would not be anchored");
        }
    }

    #[test]
    fn the_same_is_compiled_once_and_the_cache_is_bounded() {
        let (one, same) = (Expression::whole("same-[0-9]+").unwrap(), Expression::whole("same-[0-9]+").unwrap());
        assert!(Arc::ptr_eq(&one.0, &same.0));
        let mut cache = Cache::default();
        for number in 0..200 {
            let text = format!(r"\w{{1,60}}-{number}");
            cache.keep(&text, Some(&Expression::whole(&text).unwrap()));
            assert!(cache.bytes <= CACHE_MAX_BYTES);
        }
        assert!(cache.expressions.len() > 10);
    }
}
