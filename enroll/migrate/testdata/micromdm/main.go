// Command micromdm writes a database by MicroMDM's own code, for tests of what reads one.
//
//	go run . FILE < fill.json > made.json
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"os"
	"time"

	"github.com/boltdb/bolt"
	"github.com/micromdm/micromdm/mdm/enroll"
	"github.com/micromdm/micromdm/platform/apns"
	apnsbuiltin "github.com/micromdm/micromdm/platform/apns/builtin"
	blueprintpkg "github.com/micromdm/micromdm/platform/blueprint"
	blueprintbuiltin "github.com/micromdm/micromdm/platform/blueprint/builtin"
	configbuiltin "github.com/micromdm/micromdm/platform/config/builtin"
	"github.com/micromdm/micromdm/platform/device"
	devicebuiltin "github.com/micromdm/micromdm/platform/device/builtin"
	"github.com/micromdm/micromdm/platform/profile"
	profilebuiltin "github.com/micromdm/micromdm/platform/profile/builtin"
	"github.com/micromdm/micromdm/platform/pubsub/inmem"
	"github.com/micromdm/micromdm/platform/remove"
	removebuiltin "github.com/micromdm/micromdm/platform/remove/builtin"
	"github.com/micromdm/micromdm/platform/user"
	userbuiltin "github.com/micromdm/micromdm/platform/user/builtin"
	"github.com/micromdm/scep/v2/depot"
	boltdepot "github.com/micromdm/scep/v2/depot/bolt"
)

// fill is what the database is to hold.
type fill struct {
	Topic      string
	ServerURL  string
	Devices    []wanted
	Profiles   map[string][]byte // by PayloadIdentifier
	Blueprints int
	Many       int // devices beside, all alike and without certificates of their own
}

type wanted struct {
	UDID, Serial, Name     string
	NotEnrolled, NoPush    bool
	Block, NoHash, Deleted bool
	EnrollmentID, User     string
	UnlockToken, Bootstrap []byte
	LastSeen               time.Time
}

// made is what was made for a device: what it holds itself.
type made struct {
	CA      []byte // PEM
	Devices map[string]identity
	Push    []byte // SHA-256 of the push certificate, in hexadecimal
	Profile []byte // that devices enroll by
}

type identity struct{ Certificate, Key []byte } // PEM

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1]); err != nil {
		log.Fatal("micromdm: ", err)
	}
}

func run(path string) error {
	var in fill
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	db, err := bolt.Open(path, 0o644, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	db.NoSync = true // it is for a test
	out := made{Devices: map[string]identity{}}
	sub := inmem.NewPubSub()

	// As server.Setup does it.
	scep, err := boltdepot.NewBoltDepot(db)
	if err != nil {
		return err
	}
	key, err := scep.CreateOrLoadKey(2048)
	if err != nil {
		return err
	}
	ca, err := scep.CreateOrLoadCA(key, 5, "MicroMDM", "US")
	if err != nil {
		return err
	}
	out.CA = pemOf("CERTIFICATE", ca.Raw)
	devices, err := devicebuiltin.NewDB(db)
	if err != nil {
		return err
	}
	pushes, err := apnsbuiltin.NewDB(db, sub)
	if err != nil {
		return err
	}
	users, err := userbuiltin.NewDB(db)
	if err != nil {
		return err
	}
	removals, err := removebuiltin.NewDB(db)
	if err != nil {
		return err
	}
	profiles, err := profilebuiltin.NewDB(db)
	if err != nil {
		return err
	}
	blueprints, err := blueprintbuiltin.NewDB(db, profiles)
	if err != nil {
		return err
	}
	config, err := configbuiltin.NewDB(db, sub)
	if err != nil {
		return err
	}
	if in.Topic != "" {
		cert, key, err := pushCertificate(in.Topic)
		if err != nil {
			return err
		}
		if err := config.SavePushCertificate(pemOf("CERTIFICATE", cert), pemOf("RSA PRIVATE KEY", key)); err != nil {
			return err
		}
		sum := sha256.Sum256(cert)
		out.Push = []byte(hex.EncodeToString(sum[:]))
	}

	ctx := context.Background()
	for i, w := range in.Devices {
		push := &apns.PushInfo{UDID: w.UDID, PushMagic: "magic-" + w.UDID, Token: hex.EncodeToString([]byte("token-" + w.UDID)), MDMTopic: in.Topic}
		id, cert, err := issue(scep, ca, key, fmt.Sprintf("MicroMDM Identity (%s)", w.Name))
		if err != nil {
			return err
		}
		out.Devices[w.UDID+w.EnrollmentID] = id
		if w.EnrollmentID != "" {
			push.UDID = w.EnrollmentID
			if err := pushes.Save(ctx, push); err != nil {
				return err
			}
			continue
		}
		d := &device.Device{
			UUID: fmt.Sprintf("uuid-%04d", i), UDID: w.UDID, SerialNumber: w.Serial, DeviceName: w.Name, Enrolled: !w.NotEnrolled,
			OSVersion: "15.2", BuildVersion: "24C101", ProductName: "MacBookPro18,3", Model: "MK193", ModelName: "MacBook Pro",
			Token: push.Token, PushMagic: push.PushMagic, UnlockToken: hex.EncodeToString(w.UnlockToken), BootstrapToken: w.Bootstrap, LastSeen: w.LastSeen,
			DEPProfileStatus: device.PUSHED, DEPProfileAssignTime: w.LastSeen,
		}
		if err := devices.Save(ctx, d); err != nil {
			return err
		}
		if w.UDID == "" {
			continue
		}
		if !w.NoPush {
			if err := pushes.Save(ctx, push); err != nil {
				return err
			}
		}
		if !w.NoHash {
			sum := sha256.Sum256(cert.Raw)
			if err := devices.SaveUDIDCertHash([]byte(w.UDID), sum[:]); err != nil {
				return err
			}
		}
		if w.Block {
			if err := removals.Save(&remove.Device{UDID: w.UDID}); err != nil {
				return err
			}
		}
		if w.User != "" {
			if err := users.Save(&user.User{UUID: "user-" + w.User, UDID: w.UDID, UserID: w.User, UserShortname: "short", UserLongname: "Long Name"}); err != nil {
				return err
			}
			push.UDID = w.User
			if err := pushes.Save(ctx, push); err != nil {
				return err
			}
		}
		if w.Deleted {
			if err := devices.DeleteByUDID(ctx, w.UDID); err != nil {
				return err
			}
		}
	}
	for id, data := range in.Profiles {
		if err := profiles.Save(&profile.Profile{Identifier: id, Mobileconfig: data}); err != nil {
			return err
		}
	}
	// As server.Setup does it, too.
	enrollments, err := enroll.NewService(config, sub, in.ServerURL+"/scep", "secret", in.ServerURL, "", "", profiles, nil)
	if err != nil {
		return err
	}
	if out.Profile, err = enrollments.Enroll(ctx); err != nil {
		return err
	}
	for i := range in.Blueprints {
		if err := blueprints.Save(&blueprintpkg.Blueprint{UUID: fmt.Sprint("blueprint-", i), Name: fmt.Sprint("Blueprint ", i)}); err != nil {
			return err
		}
	}
	if err := many(db, in); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// many writes devices by MicroMDM's encodings in one transaction.
func many(db *bolt.DB, in fill) error {
	return db.Update(func(tx *bolt.Tx) error {
		for i := range in.Many {
			udid := fmt.Sprintf("MANY-%08d", i)
			d, err := device.MarshalDevice(&device.Device{
				UUID: "many-" + udid, UDID: udid, SerialNumber: fmt.Sprintf("S%08d", i), DeviceName: "One of many", Enrolled: true,
				UnlockToken: hex.EncodeToString(make([]byte, 1024)),
			})
			if err != nil {
				return err
			}
			p, err := apns.MarshalPushInfo(&apns.PushInfo{UDID: udid, PushMagic: "magic", Token: "0102", MDMTopic: in.Topic})
			if err != nil {
				return err
			}
			sum := sha256.Sum256([]byte(udid))
			for bucket, value := range map[string][]byte{"mdm.Devices": d, "mdm.PushInfo": p, "mdm.DeviceIdx": []byte("many-" + udid), "mdm.UDIDCertAuth": sum[:]} {
				key := udid
				if bucket == "mdm.Devices" {
					key = "many-" + udid
				}
				if err := tx.Bucket([]byte(bucket)).Put([]byte(key), value); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// issue issues an identity as MicroMDM's SCEP server does.
func issue(d *boltdepot.Depot, ca *x509.Certificate, key *rsa.PrivateKey, cn string) (identity, *x509.Certificate, error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, nil, err
	}
	serial, err := d.Serial()
	if err != nil {
		return identity{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"MicroMDM"}, CommonName: cn},
		NotBefore: time.Now().Add(-10 * time.Minute), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, own.Public(), key)
	if err != nil {
		return identity{}, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return identity{}, nil, err
	}
	if err := d.Put(cn, cert); err != nil {
		return identity{}, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(own)
	return identity{pemOf("CERTIFICATE", der), pemOf("EC PRIVATE KEY", keyDER)}, cert, err
}

var _ depot.Depot = (*boltdepot.Depot)(nil)

// pushCertificate makes what looks like one of Apple's.
func pushCertificate(topic string) (cert, key []byte, err error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	uid, err := asn1.MarshalWithParams(topic, "utf8")
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		Subject: pkix.Name{CommonName: "APSP:" + topic, ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: asn1.RawValue{FullBytes: uid}},
		}},
	}
	cert, err = x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	return cert, x509.MarshalPKCS1PrivateKey(k), err
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
