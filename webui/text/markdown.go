package text

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/parser"
	gmtext "github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// markdown renders texts. HTML in them is text like any other.
type markdown struct{ goldmark.Markdown }

func newMarkdown() *markdown {
	block := slices.DeleteFunc(parser.DefaultBlockParsers(), isParser(parser.NewHTMLBlockParser()))
	inline := slices.DeleteFunc(parser.DefaultInlineParsers(), isParser(parser.NewRawHTMLParser()))
	return &markdown{goldmark.New(goldmark.WithParser(parser.NewParser(
		parser.WithBlockParsers(block...),
		parser.WithInlineParsers(inline...),
		parser.WithParagraphTransformers(parser.DefaultParagraphTransformers()...),
		parser.WithASTTransformers(util.Prioritized(tamer{}, 100)),
	)))}
}

func isParser(which any) func(util.PrioritizedValue) bool {
	return func(v util.PrioritizedValue) bool { return v.Value == which }
}

// element is what looks like HTML, and no address in angle brackets.
var element = regexp.MustCompile(`</?[a-zA-Z][a-zA-Z0-9]*(\s[^>]*)?/?>`)

// render returns text as HTML, a single paragraph without <p>, and what its author may
// not expect of that.
func (m *markdown) render(text string) (html string, findings []string) {
	source := []byte(text)
	context := parser.NewContext()
	document := m.Parser().Parse(gmtext.NewReader(source), parser.WithContext(context))
	var out bytes.Buffer
	if err := m.Renderer().Render(&out, source, document); err != nil {
		return goldmarkFailed(text), []string{"It can’t be rendered: it is shown as it is."}
	}
	findings, _ = context.Get(findingsKey).([]string)
	if tag := element.FindString(text); tag != "" {
		findings = append(findings, "HTML such as "+tag+" is shown as text.")
	}
	html = strings.TrimSpace(out.String())
	const begin, end = "<p>", "</p>"
	if strings.HasPrefix(html, begin) && strings.Index(html, end) == len(html)-len(end) {
		html = html[len(begin) : len(html)-len(end)]
	}
	return html, findings
}

// goldmarkFailed is what is shown then: no writer to memory fails.
func goldmarkFailed(text string) string { return string(util.EscapeHTML([]byte(text))) }

// rendered is p as HTML, which is made when it is first asked for.
func (c *Catalogue) rendered(p *phrase) string {
	p.once.Do(func() { p.html, _ = c.markdown.render(p.text) })
	return p.html
}

// inline says whether html, which render made, can stand in a <p>.
func inline(html string) bool {
	for _, block := range []string{"<p>", "<h", "<ul", "<ol", "<blockquote", "<pre", "<hr"} {
		if strings.Contains(html, block) {
			return false
		}
	}
	return true
}

// tamer changes what is parsed to what a page may show: pictures are their texts, links
// lead only where [allowedLink] says, and headings stay below the page's own.
type tamer struct{}

// findingsKey is where a tamer leaves what it found, in the parser's context.
var findingsKey = parser.NewContextKey()

// Transform implements [parser.ASTTransformer].
func (tamer) Transform(document *ast.Document, reader gmtext.Reader, context parser.Context) {
	source := reader.Source()
	var findings []string
	var plain []ast.Node // to be replaced by what they hold
	link := func(n ast.Node, address string) {
		if !allowedLink(address) {
			plain = append(plain, n)
			findings = append(findings, fmt.Sprintf("The link to %s is shown as text: links lead to https, http, mailto and tel, or to a path of this server.", address))
			return
		}
		if _, _, ok := placeholder(address); ok {
			findings = append(findings, fmt.Sprintf("Placeholders in the address %s are not filled in.", address))
		}
		n.SetAttributeString("rel", []byte("noreferrer"))
	}
	_ = ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			n.Level = min(n.Level+1, 6)
		case *ast.Image:
			plain = append(plain, n)
			findings = append(findings, "Pictures are not shown, only their description.")
		case *ast.Link:
			link(n, string(n.Destination))
		case *ast.AutoLink:
			address := string(n.URL(source))
			if n.AutoLinkType == ast.AutoLinkEmail {
				address = "mailto:" + address
			}
			link(n, address)
		}
		return ast.WalkContinue, nil
	})
	context.Set(findingsKey, findings)
	for _, n := range plain {
		parent := n.Parent()
		if auto, ok := n.(*ast.AutoLink); ok {
			parent.InsertBefore(parent, n, ast.NewString(auto.Label(source)))
		}
		for child := n.FirstChild(); child != nil; child = n.FirstChild() {
			parent.InsertBefore(parent, n, child)
		}
		parent.RemoveChild(parent, n)
	}
}

// allowedLink says whether a link may lead to an address: to a web page, to somebody who
// can be written to or called, or to a page of ours.
func allowedLink(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "https", "http":
		return u.Host != ""
	case "mailto", "tel":
		return true
	case "":
		return u.Host == "" && strings.HasPrefix(address, "/") && !strings.ContainsAny(address, `\`)
	}
	return false
}
