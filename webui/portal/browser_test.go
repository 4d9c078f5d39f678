package portal

import (
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestDetect(t *testing.T) {
	storagetest.AnyEngine(t)
	const webkit = " AppleWebKit/605.1.15 (KHTML, like Gecko) "
	for name, tt := range map[string]struct {
		agent string
		want  Browser
	}{
		"iPhone, Safari 11": {"Mozilla/5.0 (iPhone; CPU iPhone OS 11_4_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/11.0 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 11}},
		"iPhone, Safari 12": {"Mozilla/5.0 (iPhone; CPU iPhone OS 12_5_7 like Mac OS X)" + webkit + "Version/12.1.2 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 12}},
		"iPhone, Safari 13": {"Mozilla/5.0 (iPhone; CPU iPhone OS 13_2_3 like Mac OS X)" + webkit + "Version/13.0.3 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 13}},
		"iPhone, Safari 15": {"Mozilla/5.0 (iPhone; CPU iPhone OS 15_8_2 like Mac OS X)" + webkit + "Version/15.6.6 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 15}},
		"iPhone, Safari 17": {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_6_1 like Mac OS X)" + webkit + "Version/17.6 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 17}},
		"iPhone, Safari 18": {"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X)" + webkit + "Version/18.5 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 18}},
		// The system's number stands still from here on (whatwg/compat 283).
		"iPhone, Safari 26": {"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X)" + webkit + "Version/26.0 Mobile/15E148 Safari/604.1", Browser{IPhone, "", 26}},
		"iPod, Safari 12":   {"Mozilla/5.0 (iPod touch; CPU iPhone OS 12_5 like Mac OS X)" + webkit + "Version/12.1.2 Mobile/15E148 Safari/604.1", Browser{IPod, "", 12}},

		"iPad that says so":          {"Mozilla/5.0 (iPad; CPU OS 12_5_5 like Mac OS X)" + webkit + "Version/12.1.2 Mobile/15E148 Safari/604.1", Browser{IPad, "", 12}},
		"iPad that asks for phones'": {"Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X)" + webkit + "Version/17.5 Mobile/15E148 Safari/604.1", Browser{IPad, "", 17}},
		"iPad as it is by default":   {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)" + webkit + "Version/18.4 Safari/605.1.15", Browser{Mac, "", 15}},
		"Mac, Safari 13":             {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_6)" + webkit + "Version/13.1.2 Safari/605.1.15", Browser{Mac, "", 10}},
		"Mac, Safari 15":             {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)" + webkit + "Version/15.6.1 Safari/605.1.15", Browser{Mac, "", 12}},
		"Mac, Safari 26":             {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)" + webkit + "Version/26.1 Safari/605.1.15", Browser{Mac, "", 26}},
		"Mac, Chrome":                {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36", Browser{Mac, "Chrome", 0}},
		"Mac, Firefox":               {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:143.0) Gecko/20100101 Firefox/143.0", Browser{Mac, "Firefox", 0}},
		"Vision Pro":                 {"Mozilla/5.0 (Apple Vision Pro; CPU OS 1_1 like Mac OS X)" + webkit + "Version/17.4 Mobile/15E148 Safari/604.1", Browser{Vision, "", 17}},

		"Chrome":                  {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_7 like Mac OS X)" + webkit + "CriOS/141.0.7390.41 Mobile/15E148 Safari/604.1", Browser{IPhone, "Chrome", 17}},
		"Firefox":                 {"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X)" + webkit + "FxiOS/143.0 Mobile/15E148 Safari/605.1.15", Browser{IPhone, "Firefox", 0}},
		"Edge":                    {"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6_0 like Mac OS X)" + webkit + "Version/18.0 EdgiOS/140.0.3485.94 Mobile/15E148 Safari/605.1.15", Browser{IPhone, "Edge", 0}},
		"Opera":                   {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X)" + webkit + "Version/17.6 Mobile/15E148 Safari/604.1 OPT/5.2.0", Browser{IPhone, "Opera", 17}},
		"Opera Mini":              {"Mozilla/5.0 (iPhone; CPU iPhone OS 15_6 like Mac OS X)" + webkit + "OPiOS/16.0.15.124050 Mobile/15E148 Safari/9537.53", Browser{IPhone, "Opera", 15}},
		"DuckDuckGo":              {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X)" + webkit + "Version/17.5 Mobile/15E148 DuckDuckGo/7 Safari/605.1.15", Browser{IPhone, "DuckDuckGo", 17}},
		"Google's app":            {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_6_1 like Mac OS X)" + webkit + "GSA/385.0.684093592 Mobile/15E148 Safari/604.1", Browser{IPhone, "Google", 17}},
		"Facebook's app":          {"Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X)" + webkit + "Mobile/20G75 [FBAN/FBIOS;FBAV/479.0.0.43.109;FBBV/645;FBDV/iPhone12,1;FBMD/iPhone;FBSN/iOS;FBSV/16.6]", Browser{IPhone, "Facebook", 16}},
		"Instagram's app":         {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X)" + webkit + "Mobile/21B74 Instagram 307.0.2.16.110 (iPhone14,5; iOS 17_1; en_US)", Browser{IPhone, "Instagram", 17}},
		"LINE's app":              {"Mozilla/5.0 (iPhone; CPU iPhone OS 16_0 like Mac OS X)" + webkit + "Mobile/15E148 Safari Line/13.15.0", Browser{IPhone, "LINE", 16}},
		"a view in some app":      {"Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X)" + webkit + "Mobile/15E148", Browser{IPhone, "?", 0}},
		"Android":                 {"Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36", Browser{Android, "Chrome", 0}},
		"Windows":                 {"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0", Browser{Windows, "Edge", 0}},
		"Windows Phone, of old":   {"Mozilla/5.0 (Mobile; Windows Phone 8.1; Android 4.0; ARM; Trident/7.0; Touch; rv:11.0; IEMobile/11.0) like iPhone OS 7_0_3 Mac OS X AppleWebKit/537 (KHTML, like Gecko) Mobile Safari/537", Browser{Windows, "?", 0}},
		"Linux":                   {"Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", Browser{Linux, "Firefox", 0}},
		"a program":               {"curl/8.14.1", Browser{Other, "?", 0}},
		"nothing":                 {"", Browser{Other, "?", 0}},
		"a number that is absurd": {"Mozilla/5.0 (iPhone; CPU iPhone OS 99999999999999999999 like Mac OS X) Version/9999999999 Safari/1", Browser{IPhone, "", 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Detect(tt.agent); got != tt.want {
				t.Errorf("Detect = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestPeopleKnowBetterWhatTheyHold(t *testing.T) {
	storagetest.AnyEngine(t)
	iPad := Detect("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Safari/605.1.15")
	for name, tt := range map[string]struct {
		said string
		want Browser
	}{
		"an iPad":                  {"ipad", Browser{IPad, "", 18}},
		"a Mac, which it is not":   {"mac", Browser{Mac, "", 15}},
		"another device":           {"other", Browser{Other, "", 0}},
		"nothing":                  {"", Browser{Mac, "", 15}},
		"a platform that is none":  {"toaster", Browser{Mac, "", 15}},
		"one that does not enroll": {"android", Browser{Mac, "", 15}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := iPad.as(tt.said); got != tt.want {
				t.Errorf("as(%q) = %+v, want %+v", tt.said, got, tt.want)
			}
		})
	}
}
