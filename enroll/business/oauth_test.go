package business

import (
	"net/url"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// RFC 5849, 3.4.1.1: a query, a form in the body, names that are there twice.
func TestWhatIsSignedIsAsTheStandardHasIt(t *testing.T) {
	storagetest.AnyEngine(t)
	got := signatureBase("post", parse(t, "HTTP://EXAMPLE.COM:80/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b"), []parameter{
		{"oauth_consumer_key", "9djdj82h48djs9d2"},
		{"oauth_token", "kkk9d7dh3k39sjv7"},
		{"oauth_signature_method", "HMAC-SHA1"},
		{"oauth_timestamp", "137131201"},
		{"oauth_nonce", "7d8f3e4a"},
		{"c2", ""},
		{"a3", "2 q"},
	})
	want := "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26c2%3D" +
		"%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1" +
		"%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
	if got != want {
		t.Errorf("signatureBase =\n%s, want\n%s", got, want)
	}
}

// RFC 5849, 1.2: the first and the last request of the example, whose base has a query.
func TestSignaturesAreThoseOfTheStandard(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		method, url   string
		params        []parameter
		consumer, tok string
		want          string
	}{
		"temporary credentials": {
			"POST", "https://photos.example.net/initiate",
			[]parameter{
				{"oauth_consumer_key", "dpf43f3p2l4k3l03"}, {"oauth_signature_method", "HMAC-SHA1"}, {"oauth_timestamp", "137131200"},
				{"oauth_nonce", "wIjqoS"}, {"oauth_callback", "http://printer.example.com/ready"},
			},
			"kd94hf93k423kf44", "", "74KNZJeDHnMBp0EMJ9ZHt/XKycU=",
		},
		"a protected resource": {
			"GET", "http://photos.example.net/photos?file=vacation.jpg&size=original",
			[]parameter{
				{"oauth_consumer_key", "dpf43f3p2l4k3l03"}, {"oauth_token", "nnch734d00sl2jdk"}, {"oauth_signature_method", "HMAC-SHA1"},
				{"oauth_timestamp", "137131202"}, {"oauth_nonce", "chapoH"},
			},
			"kd94hf93k423kf44", "pfkkdhi9sl3r4s00", "MdpQcU8iPSUjWoN/UDMsK2sui9I=",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sign(tt.method, parse(t, tt.url), tt.params, tt.consumer, tt.tok); got != tt.want {
				t.Errorf("sign = %s, want %s", got, tt.want)
			}
		})
	}
}
