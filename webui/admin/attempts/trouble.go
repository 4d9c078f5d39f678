package attempts

// trouble is what went wrong with an attempt, for who helps the person.
type trouble struct {
	Code string // GH-E…, as the person sees it and as docs/errors.md has it
	What string // a sentence
	Tell string // what to do about it
}

// troubleOf is the trouble of a code of the API.
func troubleOf(code string) trouble {
	if t, ok := troubles[code]; ok {
		return t
	}
	return trouble{"GH-E309", "The device was refused (" + code + ").", "Look into the audit log for the reason, then have them begin again."}
}

// troubles are what ends attempts, by the API's codes.
var troubles = map[string]trouble{
	"link_unknown":             {"GH-E101", "The link is none of this server’s.", "Give them another link; part of the address may have been lost."},
	"link_expired":             {"GH-E102", "The link has expired.", "Give it more time on its page, or make another one."},
	"link_used_up":             {"GH-E103", "The link has no uses left.", "Raise its uses on its page, or make another one."},
	"link_revoked":             {"GH-E104", "The link was revoked.", "Make another one, if they should get in."},
	"login_required":           {"GH-E105", "The link asks for a login, and nobody signed in.", "Have them open the link in a browser, not the profile’s address."},
	"user_disabled":            {"GH-E106", "The user may not sign in any more.", "Enable the account on the user’s page."},
	"may_not_enroll":           {"GH-E111", "The user may not enroll devices.", "Allow it on the user’s page, or see which groups the identity provider lets in."},
	"link_foreign":             {"GH-E114", "The link is for another user.", "Make a link for the person who is there."},
	"other_person":             {"GH-E115", "Another person signed in than began.", "Have them begin again in a browser of their own."},
	"attempt_over":             {"GH-E117", "The enrollment was past this step.", "Have them begin again."},
	"attempt_not_ready":        {"GH-E118", "The enrollment was not at this step yet.", "Have them begin again."},
	"attempt_expired":          {"GH-E119", "It was not finished within 24 hours.", "Have them begin again: the first page is the link’s."},
	"profile_service_required": {"GH-E121", "The device must say what it is first.", "Have them open the link in Safari on the device itself."},
	"ownership_off":            {"GH-E122", "Devices of this ownership are not enrolled here.", "Allow it in Settings, or make a link for the other ownership."},
	"push_certificate_missing": {"GH-E125", "There is no push certificate, and it is required.", "Upload one in Settings, then have them try again."},
	"statement_invalid":        {"GH-E301", "What the device stated of itself was not valid.", "Have them begin again. If it stays, look into the log."},
	"device_not_genuine":       {"GH-E302", "The device did not prove that Apple made it.", "A simulator or a very old device can’t. Settings say whether that is required."},
	"delivery_over":            {"GH-E303", "The profile was too old when it was installed.", "Have them download it again and install it at once."},
	"serial_number_not_listed": {"GH-E304", "The link is for other devices.", "Compare the serial number with those of the link."},
	"device_owned":             {"GH-E305", "The device is enrolled for somebody else.", "Unenroll it on its page first, if this person has it now."},
	"device_blocked":           {"GH-E306", "The device is blocked.", "Unblock it on its page, if it should come back."},
	"other_device":             {"GH-E307", "The profile was given to another device.", "Each device needs a profile of its own: have them begin again on this one."},
	"identity_revoked":         {"GH-E308", "The device’s certificate was revoked on the way.", "Have them begin again, unless somebody meant to stop them."},
	"device_refused":           {"GH-E309", "The device was refused.", "Look into the audit log for the reason."},
	"other_kind":               {"GH-E310", "The device enrolled in another way than its profile says.", "Have them begin again, and choose whose device it is."},
	"account_missing":          {"GH-E502", "The user has no Managed Apple Account.", "Enter it on the user’s page."},
	"account_foreign":          {"GH-E503", "The user’s Managed Apple Account may not enroll here.", "Compare its domain with those of account-driven enrollment."},
	"mode_off":                 {"GH-E505", "Such devices are not enrolled by account here.", "Change the domain’s policy under Account-driven, or give them a link."},
	"system_too_old":           {"GH-E506", "The device’s system is too old.", "Have them update it, or lower the version under Account-driven."},
}
