package mdm

import (
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Message is what a device sent and this server took, as others may want to hear of it.
type Message struct {
	// Topic is what NanoMDM's and MicroMDM's webhooks call it: "mdm." and the check-in's
	// MessageType, or "mdm.Connect" for a poll or a command's answer.
	Topic  string
	At     time.Time
	Device Device // the channel that sent it, as it is afterwards; without ID where there is none
	Parent Device // of a user channel its device; otherwise empty

	Status       string // of mdm.Connect: "Idle", "Acknowledged", "Error", "CommandFormatError", "NotNow"
	CommandUUID  string // of mdm.Connect but for Idle
	RequestType  string // of mdm.Connect, if the command is one of ours
	TokenUpdates int    // of mdm.TokenUpdate: how many there were in this enrollment, with this one

	// Raw is the property list as the device sent it. It may hold secrets and personal data:
	// it is kept sealed or not at all.
	Raw []byte
}

// Tap hears what devices say. Its methods are called in the transaction in which the server
// takes the message, so that each is heard of at least once: a device that lost the server's
// reply sends its message again, and that is heard again.
type Tap interface {
	// Wants says whether anybody wants to hear of messages like m: it is asked first, as
	// most are polls that nobody does. Of m only Topic and Status are set, and of a poll Device
	// and Parent, which is then Device itself if that is no user's channel.
	Wants(tx storage.Tx, m Message) (bool, error)
	// Heard passes a message on.
	Heard(tx storage.Tx, m Message) error
}
