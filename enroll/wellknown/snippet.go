package wellknown

import (
	"encoding/json"
	"net/url"
	"strings"
	"text/template"
)

// Kind is what a web server does with a device's request.
type Kind string

// The kinds that there are.
const (
	// Redirect sends the device on to the MDM server, with the query, so that whatever is
	// settled there is in force at once.
	Redirect Kind = "redirect"
	// Static answers instead of the MDM server: the same to every device, for as long as
	// nobody changes the file.
	Static Kind = "static"
)

// Snippet is what one kind of web server needs.
type Snippet struct {
	Server string   // nginx, apache, …: stable, for programs
	Kind   Kind     //
	Title  string   // for people
	Where  string   // the Text belongs, in a sentence
	Format string   // of Text: nginx, apache, caddy, xml, javascript, sh or text
	Text   string   // ready to be pasted
	Notes  []string // sentences, most important first
}

// Snippets returns what web servers of domain need so that devices of its accounts find
// the MDM server of a URL: for each web server first the redirect, if it can do that. The
// static answers lead to mode. Errors are *FieldError.
//
// A redirect's status is 307: it is not kept by caches, which would send one user's
// identifier with another's request. The device does not attach the query again to the
// URL that it is redirected to, so each redirect does.
func Snippets(server *url.URL, domain string, mode Mode) ([]Snippet, error) {
	domain, err := ParseDomain(domain)
	if err != nil {
		return nil, err
	}
	if err := checkServerURL(server); err != nil {
		return nil, err
	}
	if mode != BYOD && mode != ADDE {
		return nil, &FieldError{"mode", "must be byod or adde"}
	}
	answer, err := Answer(server, mode)
	if err != nil {
		return nil, err
	}
	fill := struct{ Domain, Path, Pattern, Target, Answer string }{
		Domain: domain, Path: Path, Answer: answer,
		Pattern: strings.ReplaceAll(strings.TrimPrefix(Path, "/"), ".", `\.`) + `\.?`,
		Target:  "https://" + server.Host + Path,
	}
	other := ADDE
	if mode == ADDE {
		other = BYOD
	}
	staticNotes := []string{
		"Every model family gets this same answer, which is " + mode.String() + ". Where iPhone and Mac are to enroll in different ways, or some not at all, use the redirect.",
		"What is changed at the MDM server does not change this answer. For " + other.String() + " it would name " + other.Version() + " and " + other.BaseURL(server) + ".",
	}
	list := make([]Snippet, 0, len(sources))
	for _, s := range sources {
		var text strings.Builder
		if err := s.text.Execute(&text, fill); err != nil {
			return nil, err
		}
		out := s.Snippet
		out.Where = strings.ReplaceAll(out.Where, "DOMAIN", domain)
		out.Text = text.String()
		out.Notes = nil
		for _, n := range s.Notes {
			out.Notes = append(out.Notes, strings.ReplaceAll(n, "DOMAIN", domain))
		}
		if out.Kind == Static {
			out.Notes = append(append([]string(nil), staticNotes...), out.Notes...)
		}
		list = append(list, out)
	}
	return list, nil
}

// Answer is the JSON that a device is to get: one server, as Apple allows no more today.
func Answer(server *url.URL, mode Mode) (string, error) {
	type item struct{ Version, BaseURL string }
	out, err := json.Marshal(struct{ Servers []item }{[]item{{mode.Version(), mode.BaseURL(server)}}})
	return string(out), err
}

// source is a snippet before it is filled in. DOMAIN stands for the domain.
type source struct {
	Snippet
	text *template.Template
}

func of(server string, kind Kind, title, format, where, text string, notes ...string) source {
	return source{
		Snippet{Server: server, Kind: kind, Title: title, Format: format, Where: where, Notes: notes},
		template.Must(template.New(server + " " + string(kind)).Parse(strings.TrimPrefix(text, "\n"))),
	}
}

var sources = []source{
	of("nginx", Redirect, "nginx", "nginx",
		"In the server block that answers https://DOMAIN, then: nginx -t && nginx -s reload", `
location = {{.Path}} {
    return 307 {{.Target}}$is_args$args;
}
location = {{.Path}}. {
    return 307 {{.Target}}$is_args$args;
}
`,
		"An exact location comes before every other, whatever their order.",
		"A return or rewrite that stands in the server block itself, such as the usual one from DOMAIN to www.DOMAIN, comes before all locations: move it into \"location / { … }\"."),
	of("nginx", Static, "nginx", "nginx",
		"In the server block that answers https://DOMAIN, then: nginx -t && nginx -s reload", `
location = {{.Path}} {
    default_type application/json;
    return 200 '{{.Answer}}';
}
location = {{.Path}}. {
    default_type application/json;
    return 200 '{{.Answer}}';
}
`),

	of("apache", Redirect, "Apache HTTP Server", "apache",
		"In the VirtualHost that answers https://DOMAIN, before other redirects, then: apachectl graceful", `
RedirectMatch 307 "^/{{.Pattern}}$" "{{.Target}}"
`,
		"RedirectMatch (mod_alias) carries the query over by itself.",
		"RewriteRules of the same VirtualHost come before it: if one of them takes every path, use the text for .htaccess in front of them, with a slash after the ^."),
	of("apache-htaccess", Redirect, "Apache HTTP Server, .htaccess", "apache",
		"At the very top of .htaccess in the web root of https://DOMAIN, above the rules of WordPress and the like", `
RewriteEngine On
RewriteRule "^{{.Pattern}}$" "{{.Target}}" [R=307,NE,L]
`,
		"mod_rewrite carries the query over because the target has none of its own; NE keeps older versions from escaping it twice.",
		"It needs AllowOverride FileInfo, which web hosts usually grant."),
	of("apache", Static, "Apache HTTP Server", "apache",
		"In the VirtualHost that answers https://DOMAIN, and the file beside it, then: apachectl graceful", `
# The file /var/www/apple/com.apple.remotemanagement holds one line:
# {{.Answer}}
AliasMatch "^/{{.Pattern}}$" "/var/www/apple/com.apple.remotemanagement"
<Directory "/var/www/apple">
    Require all granted
    ForceType application/json
</Directory>
`,
		"Without ForceType the file has no type, for its name ends in none that Apache knows, and devices refuse it."),

	of("caddy", Redirect, "Caddy", "caddy",
		"In the site block of DOMAIN in the Caddyfile, then: caddy reload", `
@remotemanagement path {{.Path}} {{.Path}}.
redir @remotemanagement {{.Target}}?{query} 307
`),
	of("caddy", Static, "Caddy", "caddy",
		"In the site block of DOMAIN in the Caddyfile, then: caddy reload", "\n"+
			"@remotemanagement path {{.Path}} {{.Path}}.\n"+
			"header @remotemanagement Content-Type application/json\n"+
			"respond @remotemanagement `{{.Answer}}` 200\n"),

	of("cloudflare", Redirect, "Cloudflare, Redirect Rule", "text",
		"In Cloudflare's dashboard, zone DOMAIN: Rules, Create rule, Redirect Rule; first in the order", `
If incoming requests match: Custom filter expression
  (http.host eq "{{.Domain}}" and http.request.uri.path in {"{{.Path}}" "{{.Path}}."})
Then
  Type: Static
  URL: {{.Target}}
  Status code: 307
  Preserve query string: on
`,
		"Preserve query string is off unless you switch it on, and without it no device gets through.",
		"The DNS record of DOMAIN must be proxied (orange cloud).",
		"Devices can't pass a challenge: let no WAF rule, bot protection or Access policy take this path."),
	of("cloudflare-worker", Redirect, "Cloudflare, Worker", "javascript",
		"A Worker with the route DOMAIN"+Path+"*", `
export default {
  async fetch(request) {
    const url = new URL(request.url);
    if (!["{{.Path}}", "{{.Path}}."].includes(url.pathname)) {
      return fetch(request);
    }
    return new Response(null, {
      status: 307,
      headers: { Location: "{{.Target}}" + url.search },
    });
  },
};
`,
		"The DNS record of DOMAIN must be proxied (orange cloud).",
		"Devices can't pass a challenge: let no WAF rule, bot protection or Access policy take this path."),
	of("cloudflare-worker", Static, "Cloudflare, Worker", "javascript",
		"A Worker with the route DOMAIN"+Path+"*", `
export default {
  async fetch(request) {
    const url = new URL(request.url);
    if (!["{{.Path}}", "{{.Path}}."].includes(url.pathname)) {
      return fetch(request);
    }
    return new Response('{{.Answer}}', {
      headers: { "Content-Type": "application/json" },
    });
  },
};
`,
		"The DNS record of DOMAIN must be proxied (orange cloud)."),

	of("iis", Redirect, "IIS", "xml",
		"In web.config in the web root of https://DOMAIN; with a web.config there already, the rule alone, first among its rules", `
<?xml version="1.0" encoding="UTF-8"?>
<configuration>
  <system.webServer>
    <rewrite>
      <rules>
        <rule name="Apple service discovery" stopProcessing="true">
          <match url="^{{.Pattern}}$" />
          <action type="Redirect" url="{{.Target}}" appendQueryString="true" redirectType="Temporary" />
        </rule>
      </rules>
    </rewrite>
  </system.webServer>
</configuration>
`,
		"It needs Microsoft's URL Rewrite module. IIS's own \"HTTP Redirect\" feature is no substitute.",
		"redirectType Temporary is the status 307."),
	of("iis", Static, "IIS", "xml",
		"In web.config in the web root of https://DOMAIN, and the file .well-known\\com.apple.remotemanagement beside it", `
<?xml version="1.0" encoding="UTF-8"?>
<!-- The file .well-known\com.apple.remotemanagement holds one line, in UTF-8 without a byte order mark:
     {{.Answer}} -->
<configuration>
  <system.webServer>
    <staticContent>
      <remove fileExtension=".remotemanagement" />
      <mimeMap fileExtension=".remotemanagement" mimeType="application/json" />
    </staticContent>
    <rewrite>
      <rules>
        <rule name="Apple service discovery, with a dot" stopProcessing="true">
          <match url="^{{.Pattern}}$" />
          <action type="Rewrite" url=".well-known/com.apple.remotemanagement" />
        </rule>
      </rules>
    </rewrite>
  </system.webServer>
</configuration>
`,
		"Without the mimeMap IIS answers 404, for it serves no file whose ending it does not know.",
		"The rule is for the path with a dot at the end, and needs Microsoft's URL Rewrite module; without that module leave <rewrite> out.",
		"Editors and PowerShell 5 like to put a byte order mark before the text: devices can't read the answer then."),

	of("cloudfront", Redirect, "Amazon CloudFront, function", "javascript",
		"A CloudFront function (runtime cloudfront-js-2.0), published and associated as viewer request with the behavior that takes the path", `
function handler(event) {
  var request = event.request;
  if (request.uri !== '{{.Path}}' && request.uri !== '{{.Path}}.') {
    return request;
  }
  var query = request.rawQueryString();
  return {
    statusCode: 307,
    statusDescription: 'Temporary Redirect',
    headers: { location: { value: '{{.Target}}' + (query ? '?' + query : '') } },
  };
}
`,
		"For a site in an S3 bucket: S3's own redirects can't be relied on to carry the query over, and S3 speaks no https for DOMAIN, so there is a CloudFront distribution in front already.",
		"A behavior can have one viewer request function: if it has one, put the first lines of this one into it."),
	of("s3", Static, "Amazon S3", "sh",
		"In a shell with the AWS command line; the bucket is the one behind https://DOMAIN", `
printf '%s' '{{.Answer}}' > com.apple.remotemanagement
aws s3api put-object --bucket '{{.Domain}}' --key '.well-known/com.apple.remotemanagement' \
  --body com.apple.remotemanagement --content-type application/json --cache-control max-age=300
aws s3api put-object --bucket '{{.Domain}}' --key '.well-known/com.apple.remotemanagement.' \
  --body com.apple.remotemanagement --content-type application/json --cache-control max-age=300
`,
		"S3 alone has no redirect that surely keeps the query: for that use the CloudFront function.",
		"Put the name of your bucket in place of DOMAIN. A later \"aws s3 sync --delete\" of the site removes both objects, unless they are part of it.",
		"S3 speaks no https for DOMAIN by itself: CloudFront or another CDN in front must."),
}
