package identity

// Step is one thing that a source does to let somebody in, as a test of sign-in shows it
// to an administrator.
type Step struct {
	Name   string // "connect", "tls", "bind", "search", "sign in", "groups"
	OK     bool
	Detail string // what was found, or what is wrong; never a password
}
