-- How much each function has parked, kept with the rows by triggers: counting a million of them takes longer than a start
-- or a look may.
ALTER TABLE function ADD COLUMN parked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE function ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
-- Bytes that count against its share.
ALTER TABLE function ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

UPDATE function SET (parked, held, bytes) =
    (SELECT COUNT(*), coalesce(SUM(d.held), 0), coalesce(SUM(d.weight), 0) FROM delivery d WHERE d.function = function.id);

-- The delivery of a function that was parked first; its rows are in the order of `seq`.
CREATE INDEX delivery_of_function ON delivery (function);

CREATE TRIGGER delivery_parked AFTER INSERT ON delivery BEGIN
    UPDATE function SET parked = parked + 1, held = held + NEW.held, bytes = bytes + NEW.weight WHERE id = NEW.function;
END;

CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
    UPDATE function SET parked = parked - 1, held = held - OLD.held, bytes = bytes - OLD.weight WHERE id = OLD.function;
END;

CREATE TRIGGER delivery_changed AFTER UPDATE OF held, weight ON delivery
WHEN NEW.held <> OLD.held OR NEW.weight <> OLD.weight BEGIN
    UPDATE function SET held = held + NEW.held - OLD.held, bytes = bytes + NEW.weight - OLD.weight
    WHERE id = NEW.function;
END;
