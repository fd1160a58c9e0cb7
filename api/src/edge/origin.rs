//! Origins of pages that may call the service.

use std::str::FromStr;

/// An origin, or a pattern of origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    Any,
    One(String),
    /// All sub-domains of a domain, at any depth: a host name between these two texts.
    Subdomains(String, String),
    /// A host with any port, after this text.
    AnyPort(String),
}

impl AllowedOrigin {
    /// Whether an origin as browsers send it is allowed.
    pub fn matches(&self, origin: &str) -> bool {
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        match self {
            AllowedOrigin::Any => true,
            AllowedOrigin::One(allowed) => allowed == origin,
            AllowedOrigin::Subdomains(scheme, domain) => {
                let name = origin.strip_prefix(scheme).and_then(|origin| origin.strip_suffix(domain));
                name.is_some_and(|name| !name.is_empty() && is_name(name))
            }
            AllowedOrigin::AnyPort(host) => {
                let port = origin.strip_prefix(host);
                port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
            }
        }
    }
}

impl FromStr for AllowedOrigin {
    type Err = String;

    /// Parses an origin as browsers send it (RFC 6454, section 6.2): in lower case, without the default port.
    fn from_str(text: &str) -> Result<AllowedOrigin, String> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Ok(AllowedOrigin::Any);
        }
        let (scheme, default_port) = if text.starts_with("https:") { ("https://", ":443") } else { ("http://", ":80") };
        let origin = text.strip_suffix(default_port).unwrap_or(&text);
        let host =
            origin.strip_prefix(scheme).filter(|host| !host.is_empty() && !host.contains(['/', ' ', '@', '?', '#']));
        let host = host.ok_or("expected an origin such as https://shop.example.com, without a path, or *")?;
        let pattern = if let Some(domain) = host.strip_prefix('*').filter(|domain| domain.starts_with('.')) {
            AllowedOrigin::Subdomains(scheme.into(), domain.into())
        } else if let Some(host) = host.strip_suffix('*').filter(|host| host.ends_with(':')) {
            AllowedOrigin::AnyPort(format!("{scheme}{host}"))
        } else {
            AllowedOrigin::One(origin.into())
        };
        match host.matches('*').count() {
            0 => Ok(pattern),
            1 if !matches!(pattern, AllowedOrigin::One(_)) => Ok(pattern),
            _ => Err(
                "a * stands for sub-domains, as in https://*.example.com, for the port, as in http://localhost:*, or \
                      alone for any origin"
                    .into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_origins() {
        let cases = [
            ("*", "https://any.test", true),
            ("https://shop.test", "https://shop.test", true),
            ("HTTPS://Shop.test:443", "https://shop.test", true),
            ("http://shop.test:80", "http://shop.test", true),
            ("https://shop.test", "http://shop.test", false),
            ("https://shop.test", "https://shop.test:8443", false),
            ("https://shop.test", "null", false),
            ("https://*.shop.test", "https://a.shop.test", true),
            ("https://*.shop.test", "https://a.b.shop.test", true),
            ("https://*.shop.test", "https://shop.test", false),
            ("https://*.shop.test", "https://.shop.test", false),
            ("https://*.shop.test", "https://evilshop.test", false),
            ("https://*.shop.test", "https://a.shop.test.evil.test", false),
            ("https://*.shop.test", "https://evil.test/.shop.test", false),
            ("https://*.shop.test", "https://evil.test:1.shop.test", false),
            ("https://*.shop.test", "http://a.shop.test", false),
            ("https://*.shop.test:8443", "https://a.shop.test:8443", true),
            ("http://localhost:*", "http://localhost:5173", true),
            ("http://localhost:*", "http://localhost", false),
            ("http://localhost:*", "http://localhost:80.evil.test", false),
            ("http://localhost:*", "http://localhost.evil.test:80", false),
        ];
        for (pattern, origin, matches) in cases {
            assert_eq!(pattern.parse::<AllowedOrigin>().unwrap().matches(origin), matches, "{pattern} {origin}");
        }
    }

    #[test]
    fn other_patterns_are_refused_with_a_sentence() {
        for text in
            ["", "shop.test", "https://", "https://shop.test/", "ftp://shop.test", "https://a b", "https://x@shop.test"]
        {
            assert!(text.parse::<AllowedOrigin>().unwrap_err().contains("expected an origin"), "{text}");
        }
        for text in [
            "https://shop*.test",
            "https://*",
            "https://*shop.test",
            "https://a.*.test",
            "https://*.a.test:*",
            "https://*.*.test",
        ] {
            assert!(text.parse::<AllowedOrigin>().unwrap_err().contains("sub-domains"), "{text}");
        }
    }
}
