//! Where servers are (server-server specification, "Resolving server names").
//!
//! A server has a name by which it is asked: its own, or one to which it delegates by `.well-known`. That name stands
//! in `Host`, and its host in the certificate, wherever the connection goes: SRV records change only that.

use std::{cmp::Reverse, net::SocketAddr};

use futures_util::future::join_all;
use gibbous::{OwnedServerName, ServerName};
use hickory_resolver::{
    TokioResolver,
    proto::rr::{Name, RData, Record, rdata::SRV},
};
use reqwest::dns::{Addrs, Resolve, Resolving};

use crate::Error;

/// How many targets of a server's SRV records are looked up, and how many of their addresses are tried: anybody can
/// have as many as fit an answer.
const TRIES_MAX: usize = 8;
/// Where a server is that names no port.
const PORT: u16 = 8448;

/// Returns the name by which a server is asked. What `.well-known` says (step 3) is waited for only where it matters.
pub(crate) async fn asked_by(
    server: &ServerName,
    well_known: impl Future<Output = Result<OwnedServerName, Error>>,
) -> OwnedServerName {
    let delegated = if is_explicit(server) { None } else { well_known.await.ok() };
    delegated.unwrap_or_else(|| server.to_owned())
}

/// Tells whether the name says where the server is: an address (steps 1 and 3.1), or a port (2 and 3.2). Where the
/// others are, [`BySrv`] finds.
pub(crate) fn is_explicit(name: &ServerName) -> bool {
    name.is_ip_literal() || name.port().is_some()
}

/// Returns the URL under which a server is asked by its name.
pub(crate) fn base_url(name: &ServerName) -> String {
    let port = if name.is_ip_literal() && name.port().is_none() { format!(":{PORT}") } else { String::new() };
    format!("https://{name}{port}")
}

/// Tells an HTTP client where hosts are that are asked for without a port.
pub(crate) struct BySrv(pub(crate) TokioResolver);

impl Resolve for BySrv {
    fn resolve(&self, host: reqwest::dns::Name) -> Resolving {
        let dns = self.0.clone();
        Box::pin(async move {
            let targets = targets(host.as_str(), |service| srv(&dns, service)).await?;
            let found = join_all(targets.into_iter().map(async |(target, port)| {
                // One that is not found leaves the others.
                let found = dns.lookup_ip(target).await.ok();
                found.iter().flat_map(|found| found.iter()).map(|ip| SocketAddr::new(ip, port)).collect::<Vec<_>>()
            }));
            Ok(Box::new(found.await.into_iter().flatten().take(TRIES_MAX)) as Addrs)
        })
    }
}

/// Returns which hosts and ports a host's server is at (steps 3.3 to 3.5, and 4 to 6), the best first; none where its
/// records say that there is no server.
async fn targets<F: Future<Output = Result<Vec<SRV>, Error>>>(
    host: &str,
    srv: impl Fn(Name) -> F,
) -> Result<Vec<(Name, u16)>, Error> {
    // The second one is deprecated.
    for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
        let mut records = srv(Name::from_ascii(format!("{service}.{host}."))?).await?;
        // RFC 2782 has those of one priority drawn by their weights, which spreads load; the heaviest comes first here.
        records.sort_by_key(|record| (record.priority, Reverse(record.weight)));
        if !records.is_empty() {
            // The target `.` says that there is no such service.
            let named = records.into_iter().filter(|record| !record.target.is_root() && record.port != 0);
            return Ok(named.take(TRIES_MAX).map(|record| (record.target, record.port)).collect());
        }
    }
    Ok(vec![(Name::from_ascii(format!("{host}."))?, PORT)])
}

/// Asks for SRV records. That there are none is an answer, and that it could not be had is not.
async fn srv(dns: &TokioResolver, service: Name) -> Result<Vec<SRV>, Error> {
    let of = |record: &Record| if let RData::SRV(srv) = &record.data { Some(srv.clone()) } else { None };
    match dns.srv_lookup(service).await {
        Ok(found) => Ok(found.answers().iter().filter_map(of).collect()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    /// Name, priority, weight, port and target.
    type Records<'a> = &'a [(&'a str, u16, u16, u16, &'a str)];

    /// Finds a server, of which `.well-known` says something or nothing. Returns what stands in `Host`, which host must
    /// stand in the certificate, and where the connection goes.
    async fn found(server: &str, well_known: Option<&str>, records: Records<'_>) -> (String, String, Vec<String>) {
        let server: OwnedServerName = server.try_into().expect("a server name");
        let told = async { Ok(well_known.ok_or("there is no such file")?.try_into()?) };
        let name = asked_by(&server, told).await;
        let url: reqwest::Url = base_url(&name).parse().expect("a URL");
        let certified = url.host_str().expect("it has one").to_owned();
        let connects_to = match is_explicit(&name) {
            true => vec![format!("{certified}:{}", url.port_or_known_default().expect("https has one"))],
            false => {
                let found = targets(&certified, |service| ready(Ok(named(records, &service)))).await;
                found.expect("DNS answers").iter().map(|(host, port)| format!("{host}:{port}")).collect()
            }
        };
        (name.to_string(), certified, connects_to)
    }

    fn named(records: Records<'_>, service: &Name) -> Vec<SRV> {
        let records = records.iter().filter(|(name, ..)| service.to_ascii() == *name);
        let target = |target| Name::from_ascii(target).expect("a name");
        records.map(|(_, priority, weight, port, of)| SRV::new(*priority, *weight, *port, target(of))).collect()
    }

    async fn check(
        (server, well_known, records): (&str, Option<&str>, Records<'_>),
        (host, certified, connects_to): (&str, &str, &[&str]),
    ) {
        let expected = (host.to_owned(), certified.to_owned(), connects_to.iter().map(ToString::to_string).collect());
        assert_eq!(found(server, well_known, records).await, expected, "{server}, {well_known:?}, {records:?}");
    }

    #[tokio::test]
    async fn servers_are_found_by_the_steps_of_the_specification() {
        let all: Records<'_> = &[
            ("_matrix-fed._tcp.a.example.", 0, 0, 1001, "fed.a.example."),
            ("_matrix._tcp.a.example.", 0, 0, 1002, "old.a.example."),
            ("_matrix-fed._tcp.b.example.", 0, 0, 1003, "fed.b.example."),
            ("_matrix._tcp.b.example.", 0, 0, 1004, "old.b.example."),
        ];
        let (old, none) = (&[all[1], all[3]], &[]);
        // 1: an address, whatever else there is.
        check(("192.0.2.1", Some("b.example"), all), ("192.0.2.1", "192.0.2.1", &["192.0.2.1:8448"])).await;
        check(("192.0.2.1:443", None, all), ("192.0.2.1:443", "192.0.2.1", &["192.0.2.1:443"])).await;
        check(("[2001:db8::1]", None, all), ("[2001:db8::1]", "[2001:db8::1]", &["[2001:db8::1]:8448"])).await;
        check(("[2001:db8::1]:80", None, all), ("[2001:db8::1]:80", "[2001:db8::1]", &["[2001:db8::1]:80"])).await;
        // 2: a port.
        check(("a.example:80", Some("b.example"), all), ("a.example:80", "a.example", &["a.example:80"])).await;
        check(("a.example:443", None, all), ("a.example:443", "a.example", &["a.example:443"])).await;
        // 3.1 to 3.5: the same of the name that is delegated to.
        check(("a.example", Some("192.0.2.1"), all), ("192.0.2.1", "192.0.2.1", &["192.0.2.1:8448"])).await;
        check(("a.example", Some("192.0.2.1:80"), all), ("192.0.2.1:80", "192.0.2.1", &["192.0.2.1:80"])).await;
        check(("a.example", Some("b.example:443"), all), ("b.example:443", "b.example", &["b.example:443"])).await;
        check(("a.example", Some("b.example"), all), ("b.example", "b.example", &["fed.b.example.:1003"])).await;
        check(("a.example", Some("b.example"), old), ("b.example", "b.example", &["old.b.example.:1004"])).await;
        check(("a.example", Some("b.example"), none), ("b.example", "b.example", &["b.example.:8448"])).await;
        // 4 to 6: nobody is delegated to, or nobody whose name can be one.
        check(("a.example", None, all), ("a.example", "a.example", &["fed.a.example.:1001"])).await;
        check(("a.example", Some("https://b"), all), ("a.example", "a.example", &["fed.a.example.:1001"])).await;
        check(("a.example", None, old), ("a.example", "a.example", &["old.a.example.:1002"])).await;
        check(("a.example", None, none), ("a.example", "a.example", &["a.example.:8448"])).await;
    }

    #[tokio::test]
    async fn targets_are_tried_by_priority_and_only_so_many() {
        let one = ("_matrix-fed._tcp.a.example.", 0, 0, 1, "a1.example.");
        let record = |priority, weight, port, target| (one.0, priority, weight, port, target);
        let found = async |records: Records<'_>| found("a.example", None, records).await.2;
        let three = [record(9, 9, 3, "a3.example."), record(1, 0, 2, "a2.example."), record(1, 5, 1, "a1.example.")];
        assert_eq!(found(&three).await, ["a1.example.:1", "a2.example.:2", "a3.example.:3"]);
        assert_eq!(found(&[one; 100]).await.len(), TRIES_MAX);
        // There is no such server, whatever older records say.
        let old = ("_matrix._tcp.a.example.", 0, 0, 1, "a1.example.");
        assert!(found(&[record(0, 0, 1, "."), old]).await.is_empty());
        assert!(found(&[record(0, 0, 0, "a1.example."), old]).await.is_empty(), "a port that nothing can be at");
    }

    #[tokio::test]
    async fn records_that_cannot_be_had_are_not_taken_for_none() {
        targets("a.example", |_| ready(Err("the name server fails".into()))).await.expect_err("it is not known where");
    }
}
