package text

import (
	"bytes"
	"net/url"
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

// render returns text as HTML: a single paragraph without <p>.
func (m *markdown) render(text string) (string, error) {
	source := []byte(text)
	document := m.Parser().Parse(gmtext.NewReader(source))
	var out bytes.Buffer
	if err := m.Renderer().Render(&out, source, document); err != nil {
		return "", err
	}
	html := strings.TrimSpace(out.String())
	if first := document.FirstChild(); first != nil && first == document.LastChild() && first.Kind() == ast.KindParagraph {
		html = strings.TrimSuffix(strings.TrimPrefix(html, "<p>"), "</p>")
	}
	return html, nil
}

// rendered is p as HTML, which is made when it is first asked for.
func (c *Catalogue) rendered(p *phrase) string {
	p.once.Do(func() {
		html, err := c.markdown.render(p.text)
		if err != nil {
			c.missing(p.lang, "HTML of "+p.text) // no writer of ours fails
		}
		p.html = html
	})
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

// Transform implements [parser.ASTTransformer].
func (tamer) Transform(document *ast.Document, reader gmtext.Reader, _ parser.Context) {
	source := reader.Source()
	var plain []ast.Node // to be replaced by what they hold
	_ = ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			n.Level = min(n.Level+1, 6)
		case *ast.Image:
			plain = append(plain, n)
		case *ast.Link:
			if !allowedLink(string(n.Destination)) {
				plain = append(plain, n)
			}
			n.SetAttributeString("rel", []byte("noreferrer"))
		case *ast.AutoLink:
			if n.AutoLinkType == ast.AutoLinkURL && !allowedLink(string(n.URL(source))) {
				plain = append(plain, n)
			}
			n.SetAttributeString("rel", []byte("noreferrer"))
		}
		return ast.WalkContinue, nil
	})
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
