package apiv1

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/logtail"
)

// levels of lines of the log, as they are asked for and answered.
var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

type logLineJSON struct {
	Seq        uint64             `json:"seq"`
	At         time.Time          `json:"at"`
	Level      string             `json:"level"`
	Message    string             `json:"message"`
	Attributes []logAttributeJSON `json:"attributes"`
}

type logAttributeJSON struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func logLine(l logtail.Line) logLineJSON {
	out := logLineJSON{Seq: l.Seq, At: l.At.UTC(), Level: strings.ToLower(l.Level.String()), Message: l.Message, Attributes: make([]logAttributeJSON, len(l.Attributes))}
	for i, a := range l.Attributes {
		out.Attributes[i] = logAttributeJSON(a)
	}
	return out
}

// listLog lists the newest lines of the log of this process.
func (a *API) listLog(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if err := onlyParameters(query, "level", "q", "limit", "cursor"); err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	q := logtail.Query{Least: slog.LevelDebug, Limit: limit}
	if q.Text, err = textOf(query, "q"); err != nil {
		return err
	}
	level, err := textOf(query, "level")
	if err != nil {
		return err
	}
	if level != "" {
		least, ok := levels[level]
		if !ok {
			return invalid("level", "must be debug, info, warn or error")
		}
		q.Least = least
	}
	if cursor != "" {
		if q.Before, err = strconv.ParseUint(cursor, 10, 64); err != nil || q.Before == 0 {
			return storage.ErrBadCursor
		}
	}
	lines, more := a.tail.Lines(q)
	next := ""
	if more {
		next = strconv.FormatUint(lines[len(lines)-1].Seq, 10)
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(lines, next, logLine))
}
