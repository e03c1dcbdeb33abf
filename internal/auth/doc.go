// Package auth decides who may connect and what a connection may do: it is
// both the mq.Authenticator and the mq.Authorizer of the server.
//
// Ways to log in (contract section 7):
//
//   - signature: user name "Signature|{accessKey}|{instance}", password
//     Base64(HMAC-SHA1(secret, client ID)); access keys come with Options.
//
//   - user: a name of the users file with its password, which the file holds as
//     a bcrypt hash or, for devices that sign, in clear. The file is read again
//     within three seconds of a change (size, time of change or identity) and
//     on Reload. A file that cannot be read keeps the users there were.
//
//   - anonymous: without a user name, when Options say so. A server that is
//     given neither access keys nor a users file is open: it takes anybody,
//     whatever credentials they show, as an anonymous client. Open tells the
//     caller, who must keep such a server on the loopback interface.
//
//   - SCRAM-SHA-256 (RFC 5802, RFC 7677), for protocols with enhanced
//     authentication: a user of the users file proves to know the password
//     without sending it, and sees that the server knows it, too. See below.
//
//   - signed requests, for protocols without a login: an access key of Options
//     signs every one of them (mq.RequestAuthenticator). An open server and one
//     that lets anonymous clients in take unsigned ones.
//
// Users may be bound to client IDs by patterns. The others are not: each password
// of a signature login is good for one client ID, and anonymous clients have no
// name.
//
// Each way has its mq.PrincipalKind; with the name it tells the owner of a session
// (docs/adr/011). An open server says KindNobody.
//
// Token and device credential log-ins, JWT and certificates are not here yet;
// a client that tries one of the first two is told so.
//
// # SCRAM
//
// The file has a SCRAM credential beside a user's hash (written with it, as it
// cannot be made of the hash), or a secret, of which the server makes the keys
// at the first login. Names and passwords are prepared with SASLprep. The user
// name of the exchange is the one that counts, also for rules; an
// authorization identity must be empty or the same. Channel binding is not
// offered: "n" and "y" are accepted, "p" is refused.
//
// From outside, a name without a user looks like a wrong password: it gets a
// salt that is made of the name and a key of the file, the same number of steps
// and the same refusal, in the same time. What differs is a user whose
// iterations are not the highest in the file, or whose salt was not made by
// UsersFile.SetSCRAM. In a file without salt-key, made salts change with each
// start of the server.
//
// An exchange that fails after the challenge counts as a failed login. One that
// fails before it is about form, as above with passwords, and does not. Known
// devices get past the limit of their address, up to a wrong proof.
//
// Begin sees the users at that time; a user that was changed or deleted during
// the exchange is refused at its end.
//
// # Rules
//
// Rules are tried in order, the first that matches decides. With rules, what
// no rule matches is denied; without any, all is allowed.
//
// A rule's topic is a topic filter; "#" and "+" do not match a first level that
// starts with "$", as in MQTT. Subscribing to $SYS needs a rule whose topic has
// $SYS as its first level, also when there are no rules at all. %c stands for
// the client ID and %u for the user name, %% for a percent sign.
//
// Publishing matches a rule when the topic name does. Subscribing is about all
// topics that the filter can match: a rule matches when it covers every one of
// them. A deny rule that covers some of them takes those away, and the rules
// after it decide about the rest. So with "deny sub secret/#" before "allow all
// #", a subscription to "#" is granted in part: nothing below secret comes by
// it. Deliveries are checked for such subscriptions only. A shared subscription
// is granted as a whole or not at all.
//
// A client ID or user name with "/", "+" or "#" in it (or one that would make
// the first level start with "$") cannot be put in the place of %c or %u: an
// allow rule then does not match and a deny rule does, from that level on. An
// empty one matches neither.
//
// # Changes
//
// All of Options can be changed while the server runs (Apply), the users file
// by itself (Reload, or because it was written). What decides is one immutable
// policy: a call of Allow, Grant or Authenticate sees the old or the new one,
// whole. Version tells whether a verdict from before can still be used.
//
// A login holds while what was shown would let somebody in. When the user or the
// key is gone, or has another password or secret, or when anonymous clients are
// not let in any more, the Standing of its Principal ends: it may do nothing from
// then on, and the gateways close its connection. What is stored for somebody
// (a session, a will) hangs on the name only: it has the rights of that name as
// long as there is such a user or key, whatever the password.
//
// Package auth does not know protocols and keeps no sessions.
package auth
