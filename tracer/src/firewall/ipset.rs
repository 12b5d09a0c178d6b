//! What `ipset save` prints.

use super::Ipset;

/// The sets in `text`.
pub(super) fn parse(text: &str) -> Vec<Ipset> {
    let mut sets: Vec<Ipset> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("create"), Some(name), Some(kind)) => {
                index.insert(name, sets.len());
                sets.push(Ipset {
                    name: name.to_owned(),
                    kind: kind.to_owned(),
                    members: Vec::new(),
                });
            }
            (Some("add"), Some(name), Some(member)) => {
                let Some(set) = index.get(name).and_then(|at: &usize| sets.get_mut(*at)) else {
                    continue;
                };
                // `nomatch` turns a member into an exception; a comment or timeout does not matter.
                let is_exception =
                    words.next().is_some_and(|w| w.split(' ').any(|w| w == "nomatch"));
                let suffix = if is_exception { " nomatch" } else { "" };
                set.members.push(format!("{member}{suffix}"));
            }
            _ => {}
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_belong_to_their_set() {
        let sets = parse(
            "create A hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1\n\
             create B hash:net,port family inet\n\
             add A 10.244.1.77\n\
             add B 10.0.0.0/8,tcp:80 comment \"x y\"\n\
             add B 10.1.0.0/16,tcp:80 nomatch\n",
        );
        assert_eq!(sets[0].members, ["10.244.1.77"]);
        assert_eq!(sets[1].kind, "hash:net,port");
        assert_eq!(sets[1].members, ["10.0.0.0/8,tcp:80", "10.1.0.0/16,tcp:80 nomatch"]);
    }
}
