//! URLs, as far as validation must understand them.

use std::net::IpAddr;

/// The parts of a URL with an authority.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Url<'a> {
    pub(in crate::config) scheme: &'a str,
    /// Without brackets and port; empty for none.
    pub(in crate::config) host: &'a str,
    pub(in crate::config) has_user: bool,
    pub(in crate::config) path: &'a str,
    pub(in crate::config) query: &'a str,
}

impl<'a> Url<'a> {
    /// Reads `scheme://[user[:password]@]host[:port][/path][?query]`.
    pub(in crate::config) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host_port) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (host, port) = match host_port.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']')?;
                (host, after.strip_prefix(':'))
            }
            None => host_port.split_once(':').map_or((host_port, None), |(host, port)| (host, Some(port))),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control();
        let port_fine = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
        let fine = !scheme.is_empty() && !host.is_empty() && port_fine && !text.contains(odd);
        fine.then_some(Self { scheme, host, has_user: user.is_some(), path, query })
    }
}

/// Whether what goes to this host stays on this host.
pub(in crate::config) fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        let url = Url::parse("mysql://user:p@ss@db.example.com:3306/triggerd?ssl-mode=REQUIRED").unwrap();
        assert_eq!((url.scheme, url.host, url.path), ("mysql", "db.example.com", "/triggerd"));
        assert_eq!((url.has_user, url.query), (true, "ssl-mode=REQUIRED"));
        assert_eq!(Url::parse("http://[::1]:80/x").unwrap().host, "::1");
    }

    #[test]
    fn what_is_no_url_is_none() {
        for text in
            ["", "localhost:9000", "http://", "http://:80", "http://host:port", "http://host:0", "http://a b"]
        {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_loopback_is_local() {
        assert!(["localhost", "127.0.0.1", "127.1.2.3", "::1"].into_iter().all(is_local));
        assert!(!["10.0.0.1", "0.0.0.0", "minio", "localhost.example.com"].into_iter().any(is_local));
    }
}
