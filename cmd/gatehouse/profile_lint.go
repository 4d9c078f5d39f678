package main

import (
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// profileLintCommand needs no server, so that a pipeline can hold a profile back before one
// has it.
type profileLintCommand struct {
	Files   []string `arg:"" name:"file" help:"Profiles, signed or not, or - for standard input."`
	Target  string   `placeholder:"TARGET" help:"Hold it against such a device, too: ios:18.2,user or macos:15,approved, as for gatehouse explain."`
	Literal bool     `help:"Dollar signs in it are no variables."`
	JSON    bool     `name:"json" help:"Print JSON."`
}

// linted is what there is to say of one file.
type linted struct {
	File       string    `json:"file"`
	Identifier string    `json:"identifier"`
	Name       string    `json:"name"`
	Findings   []finding `json:"findings"`
	Refused    *bool     `json:"refused"` // by the target; null: none was named
}

// Run prints the findings. Errors and warnings among them end it with exitUsage.
func (c *profileLintCommand) Run(p *process) error { return wrappedIf("profile lint", c.lint(p)) }

func (c *profileLintCommand) lint(p *process) error {
	var target *command.Target
	if c.Target != "" {
		t, err := command.ParseTarget(c.Target)
		if err != nil {
			return usageError(fmt.Errorf("--target: %w", err))
		}
		target = &t
	}
	all := []linted{}
	errs, warnings := 0, 0
	for _, file := range c.Files {
		l, err := c.one(p, file, target)
		if err != nil {
			return err
		}
		for _, f := range l.Findings {
			switch profile.Severity(f.Severity) {
			case profile.SeverityError, profile.SeverityUnknown: // what is not known of a target is not yes
				errs++
			case profile.SeverityWarning:
				warnings++
			}
		}
		all = append(all, l)
	}
	if c.JSON {
		if err := printJSON(p.stdout, all); err != nil {
			return err
		}
	} else {
		for _, l := range all {
			l.print(p, target)
		}
	}
	if errs+warnings > 0 {
		return usageError(fmt.Errorf("%s and %s", count(errs, "error"), count(warnings, "warning")))
	}
	return nil
}

func (c *profileLintCommand) one(p *process, file string, target *command.Target) (linted, error) {
	data, err := readProfile(p, file)
	if err != nil {
		return linted{}, err
	}
	parsed, err := profile.Parse(data)
	if err != nil {
		return linted{File: file, Findings: []finding{{Code: "not_a_profile", Severity: string(profile.SeverityError), Reason: err.Error()}}}, nil
	}
	findings := parsed.Lint(time.Now())
	if !c.Literal {
		_, problems := parsed.Variables(template.Known)
		findings = append(findings, problems...)
	}
	l := linted{File: file, Identifier: parsed.Identifier, Name: parsed.DisplayName, Findings: []finding{}}
	if target != nil {
		more, refused := parsed.Check(*target)
		findings, l.Refused = append(findings, more...), &refused
	}
	for _, f := range findings {
		l.Findings = append(l.Findings, finding{f.Code, string(f.Severity), f.PayloadType, f.Path(), f.Reason})
	}
	return l, nil
}

func (l linted) print(p *process, target *command.Target) {
	for _, f := range l.Findings {
		fmt.Fprintf(p.stdout, "%s: %s\n", l.File, shown(f.String()))
	}
	switch {
	case l.Refused == nil:
	case *l.Refused:
		fmt.Fprintf(p.stdout, "%s: refused by %s\n", l.File, target)
	default:
		fmt.Fprintf(p.stdout, "%s: taken by %s\n", l.File, target)
	}
	if len(l.Findings) == 0 {
		fmt.Fprintf(p.stdout, "%s: nothing to say\n", l.File)
	}
}
