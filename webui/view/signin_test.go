package view

// signInSamples are the pages of signing in, in a frame with everything and in one with
// nothing.
func signInSamples(full, bare Portal) []Page {
	return []Page{
		SignIn{Portal: bare, Lead: "For you.", Passwords: true, Action: "/login"},
		SignIn{
			Portal: full, Lead: long, Description: "<p>Own <b>words</b></p>", Notice: long, Error: long, Code: "GH-E201",
			Passwords: true, Action: "/login", Login: hostile, Next: hostile, Switch: true, Hint: hostile, NewServer: true,
			Providers: []SignInProvider{{Name: long, Action: "/login/with/1"}, {Name: rightToLeft, Action: "/login/with/2"}},
		},
		SignIn{Portal: full, Lead: hostile, Providers: []SignInProvider{{Name: hostile, Action: "/login/with/1", Primary: true}}},
		SignIn{Portal: bare, Lead: "For you."},
		SignInCode{Portal: full, Who: long, Error: hostile, Code: "GH-E208"},
		SignInCode{Portal: bare, Who: hostile, Recovery: true},
		SignInGo{Portal: full, Provider: long, URL: "/elsewhere"},
		SignedOut{Portal: bare, Again: "/login"},
		SignedOut{Portal: full, Provider: long, URL: "/elsewhere", Again: "/login"},
		SignedOut{Portal: bare, User: long},
		SignInTrial{
			Portal: full, Provider: hostile, OK: true, Steps: []SignInStep{{"sign in", true, long}, {"user", false, hostile}},
			Becomes: []Fact{{Label: hostile, Value: long}}, Groups: []string{long, rightToLeft}, Warnings: []string{long},
			Claims: []Fact{{Label: long, Value: hostile, Mono: true}},
		},
		SignInTrial{Portal: bare, Provider: "Example ID"},
	}
}
